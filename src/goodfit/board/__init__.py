"""The board: a page in a browser over run folders, to watch, compare, ask and steer runs."""
