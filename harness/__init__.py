"""One run: configuration, data, training, evaluation, records."""
