"""The life of one run: start, resume, train, finish, evaluate."""
