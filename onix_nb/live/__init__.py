"""Runs on the page: `html.py` makes the only HTML there is, `view.py` keeps it current.

May import `model`, `engine`, `explore` and IPython's display functions.
"""
