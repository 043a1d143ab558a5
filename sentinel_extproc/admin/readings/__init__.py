"""What the parts' own numbers are called as metrics. One function a part, in files by theme.

Each counter of a part appears in exactly one table; a test holds the tables to the parts.
"""
