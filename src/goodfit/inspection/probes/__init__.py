"""Probes, one a file."""
