"""What is wrong with one model or run."""
