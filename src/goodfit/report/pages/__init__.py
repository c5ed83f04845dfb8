"""The pages: one file for each kind of folder that can be told."""
