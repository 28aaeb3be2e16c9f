import onix

@onix.flow
def fetch_from_cache(user_id: str):
    return {"user_id": user_id, "source": "cache"}

@onix.flow
def fetch_from_db(user_id: str):
    return {"user_id": user_id, "source": "db"}

@onix.flow
def get_user_info(user_id: str):
    # Launch multiple redundant calls in parallel, and use the result of the
    # fastest one to improve latency.
    f1 = fetch_from_cache.start(user_id=user_id)
    f2 = fetch_from_db.start(user_id=user_id)

    done, not_done = onix.wait(
        [f1, f2],
        return_when=onix.FIRST_COMPLETED,
    )

    # done contains the future that finished first.
    # not_done contains the other future that is still running.

    return done.pop().result()
