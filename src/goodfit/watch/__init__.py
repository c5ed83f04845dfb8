"""What looks at training and cannot touch it."""
