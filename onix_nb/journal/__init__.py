"""What durable flows remember. May import `model` and `errors`."""
