"""A program that is killed while it records, for the tests; `python -m tests.crashes.flows`.

It forks its victims itself, which takes milliseconds. It must never start a thread: one that has just been joined may
still hold a lock of OpenSSL's, which is then locked for ever in the next child.
"""
