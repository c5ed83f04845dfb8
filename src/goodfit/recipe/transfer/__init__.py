"""Transfer learning: the weights to start from, their features, and what to train of them."""
