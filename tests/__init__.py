"""Goodfit's tests."""
