"""Readers of the formats that images come in: a source's files to the Contents of a data set."""
