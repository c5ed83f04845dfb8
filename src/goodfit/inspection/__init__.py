"""What looks at networks and at training, and cannot touch them."""
