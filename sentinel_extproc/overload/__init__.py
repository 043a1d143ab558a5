"""When new requests are turned away, so that the running ones go on."""
