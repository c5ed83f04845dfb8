"""Hyperparameter search: the space, its trials and its results."""
