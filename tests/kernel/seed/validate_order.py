import onix

@onix.action
def check_inventory(order_id: str):
    if order_id == "ord-1":
        return [] # No errors
    else:
        return ["item out of stock"]

# ...

VALIDATION_CHECKS = [check_inventory, check_shipping_address, check_fraud]

@onix.flow
def validate_order(order_id: str):
    # Launch all three function calls in parallel
    check_futures = [f.start(order_id=order_id) for f in VALIDATION_CHECKS]

    # Wait for all three to complete.
    done, not_done = onix.wait(check_futures, return_when=onix.ALL_COMPLETED)

    # After ALL_COMPLETED, all three futures are in the done set.
    # The not_done set is always empty.
    errors = []
    for f in done:
        errors.extend(f.result())

    return {"ok": not errors, "errors": errors}
