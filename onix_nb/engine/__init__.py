"""How runs run: threads, the event loop, and the one session that holds them together.

`session.py` is the one place with live state; `actions.py`, `flows.py` and `aio.py` execute
attempts; `pool.py` and `clock.py` are the threads. It may import all folders but
`live` and `notebook`.
"""
