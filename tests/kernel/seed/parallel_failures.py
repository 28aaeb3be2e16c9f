import onix

@onix.action
def might_fail(x):
    if x == 0:
        raise Exception("x cannot be zero")
    return 10 / x

@onix.flow
def test_parallel_failures(x):
    # Launch the action that might fail in the background:
    future = might_fail.start(x=x)

    # The exception is thrown when result() is called:
    try:
        return future.result()
    except Exception as e:
        return f"Caught exception: {e}"
