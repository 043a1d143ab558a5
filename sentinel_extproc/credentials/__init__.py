"""Providers' keys from files that may change while we run.

``rotation`` decides, without I/O, what a changed file means; ``watch`` looks at the files. A key is
never part of a fact, a log line or an error.
"""
