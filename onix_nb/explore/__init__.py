"""Runs as data. May import `model`; pandas and matplotlib only inside functions."""
