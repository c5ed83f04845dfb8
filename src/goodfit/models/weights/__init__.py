"""Weights from elsewhere: published files, files of tensors, and how they are fitted into a network."""
