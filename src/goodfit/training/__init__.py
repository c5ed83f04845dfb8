"""The training loop and what it stands on; knows protocols, no concrete model."""
