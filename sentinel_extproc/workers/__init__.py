"""Worker processes: one supervisor, N workers with a socket and an outbox each, one admin port.

``supervision`` decides, ``supervisor`` does: it holds the sockets and forks. ``place`` and
``lifeline`` are a worker's side of it. The admin port is a process of its own, the ``front``, which
asks the workers and puts their answers together (``merging``); the ``shelf`` is the folder where
they meet.
"""
