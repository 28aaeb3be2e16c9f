"""Runs as data. May import `model` and `engine`; pandas and matplotlib only inside functions."""
