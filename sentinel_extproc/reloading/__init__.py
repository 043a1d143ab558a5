"""Settings that change while it runs: read anew on SIGHUP or when a file changed, refused whole.

- ``changes``: which settings differ, and which of them hold only after a restart: pure
- ``reading``: everything that can be swapped, read and checked as at the start
- ``reloader``: when, one at a time, and what became of it
"""
