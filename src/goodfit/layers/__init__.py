"""The layers networks are built from."""
