"""`python -m goodfit` is `goodfit`."""

from goodfit.cli import main

main()
