"""The lessons, a file each: its first line is the lesson's title, and its function `teach` computes it."""
