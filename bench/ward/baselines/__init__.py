"""What others publish, on the same cases: rules on passive signals, a forest, and random repair."""
