"""``explain`` and ``policy replay``: what counts, limits and policies would do, without doing it.

- ``explaining``: one request, pure but for the clock of a store that is thrown away
- ``explain_command``: the command line, and how it is shown
- ``configured``: the policy and the models that the options and the configuration mean
"""
