"""The operator's port: health, metrics and control, apart from the port that Envoy talks to.

Vocabulary: *control* are the calls that change something or show users' affairs, all under
``/v1/``; an *effect* is what such a call achieved; a *check* is one reason for not being ready.

- ``control``: what can be controlled, and the bodies that say so: pure
- ``revoking``: does it, by revocation epochs
- ``looking``: what is known of a user or a token
- ``guard``: who may ask, and the bounds of asking
- ``routes``: the HTTP application
- ``server``: serves it in the sidecar's own event loop; ``listening``: its socket
- ``readings``: what the parts' own numbers are called as metrics; ``backlog``: one that takes long
- ``commands``: the command line's side; ``client``: its calls
"""
