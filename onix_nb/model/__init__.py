"""What a run is, and what it means to wait for one.

Standard library only. Nothing here starts a thread, opens a file or knows of a notebook; it may
import `errors` and `config`.
"""
