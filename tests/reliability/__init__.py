"""Runs that cannot be lost: every way to stop, break or damage one, tried at every place it can happen.

Each module is a suite and holds its points in two sizes: what `make test` does, and with `RELIABILITY=long` what
`make test-long` does. A point counts only where its operation was really reached; `tally.py` keeps the counts.
"""
