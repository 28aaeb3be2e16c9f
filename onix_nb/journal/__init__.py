"""Durable memory: how the calls of durable flows ended, in a file that outlives the kernel.

An outcome is acknowledged only when it is on the disk, and nothing is unpickled that this user's key
did not seal. Imports `model` and `errors`; imported only for those who define a durable flow.
"""
