"""The recipe and how it becomes a training: the one place that knows concrete parts."""
