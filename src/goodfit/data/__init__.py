"""From whatever holds images to batches."""
