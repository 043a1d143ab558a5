"""Commands that show a running sidecar to its operator, by its admin port.

- ``look_commands``: limits of a user, and whose a token is
- ``rates``: what two looks at the metrics say; ``top_command``: shows it
"""
