import onix

@onix.action
def fetch_profile(user_id: str):
    # e.g. API call
    return {"user_id": user_id, "name": "Ada"}

@onix.action
def fetch_recent_orders(user_id: str):
    # e.g. DB query
    return [{"id": "ord-1"}, {"id": "ord-2"}]

@onix.flow
def get_dashboard(user_id: str):
    # Calls fetch_profile(user_id=user_id) in the background, and immediately
    # proceeds to the next line without waiting for the result.
    profile_future = fetch_profile.start(user_id=user_id)

    # Calls fetch_recent_orders(...) in the background, similar to the above.
    orders_future = fetch_recent_orders.start(user_id=user_id)

    # Waits for the earlier call to fetch_profile() to finish, and assigns the
    # result to `profile`. Note that the call to fetch_recent_orders() is still
    # running in the background while we wait for fetch_profile() to finish.
    profile = profile_future.result()

    # Waits for the earlier call to fetch_recent_orders() to finish, similar to
    # the above.
    orders = orders_future.result()

    return {
        "profile": profile,
        "orders": orders,
    }
