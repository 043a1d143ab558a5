"""``sentinel-extproc usage``: read the ledger, prove it whole, and send again what Zion refused.

- ``safe``, ``filters``, ``columns``: pure
- ``zion_ledger``: our items against Zion's
- ``ledger_file``: reads an outbox from outside, beside a running sidecar too
- ``tables``: for people
- ``commands``, ``verifying``, ``replaying``: the command line; ``group`` has all of it
"""
