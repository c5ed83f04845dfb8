"""Losses and penalties, which training minimizes."""
