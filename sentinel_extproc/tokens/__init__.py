"""Tokens of requests and answers, counted as the provider would.

``encodings`` has the shipped tokenizers, ``models`` the table of families and constants,
``estimator`` the request estimate with a rule per endpoint (``chat``, ``responses``, ``plain``,
``messages``), ``incremental`` the count of a streamed answer.

What counting costs, o200k on one core of a small virtual machine, milliseconds per call:

=========================  =======  ========  =======
text                         10 kB    100 kB     1 MB
=========================  =======  ========  =======
ordinary prose and code        0.7         5       60
one letter, or blanks            2        35      400
random letters                   2        30      280
random Unicode                   6        40      380
=========================  =======  ========  =======

The tokenizer works without the GIL on pieces of at most 16,384 characters, so a thread that counts
1 MB of any of these keeps an event loop from running for under 7 ms. Callers count inline below
10 kB and in a small thread pool above. Feeding a counter costs about 0.5 microseconds a chunk; 4
with a live total after each, and up to 3 ms when the text has had no word boundary for thousands
of characters.
"""
