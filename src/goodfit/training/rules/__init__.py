"""Rules a training follows, one kind of part in each file: averages, stopping, plateaus, what is trainable, rates."""
