"""``explain`` and ``policy replay``: what counts, limits and policies would do, without doing it.

- ``explaining``: one request; ``explain_command``: its command line
- ``timeline``: the ledger's past in the order of its times; ``replaying``: that past against
  policies; ``replay_command``: its command line, in ``group``
- ``configured``: the policy and the models that the options and the configuration mean
"""
