import onix

@onix.flow
def test_wait_failures(x):
    future1 = might_fail.start(x=x)
    future2 = might_fail.start(x=x + 1)

    done, not_done = onix.wait([future1, future2], return_when=onix.ALL_COMPLETED)

    results = []
    for f in done:
        try:
            results.append(f.result())
        except Exception as e:
            results.append(f"Caught exception: {e}")

    return results
