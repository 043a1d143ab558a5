"""What enforcing would have done: counted while nothing is enforced, kept in a file, reported.

``tally`` counts, without I/O; ``store`` keeps the counts; ``recorder`` brings one to the other;
``report`` is what people read.
"""
