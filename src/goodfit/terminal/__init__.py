"""What is printed: progress, tables, curves and picture sheets."""
