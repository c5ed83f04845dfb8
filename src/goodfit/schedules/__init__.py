"""The learning rate as a function of progress."""
