"""What an exchange does at each event: plain functions of its ``Progress``, which they change.

``exchange.machine`` has the table of which comes when.
"""
