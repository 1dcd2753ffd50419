"""Runs shown in trackers (TensorBoard, MLflow, ...): what they are told, each of them, and when."""
