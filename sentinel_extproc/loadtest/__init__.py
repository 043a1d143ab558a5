"""Load tests of an LLM gateway: ``sentinel-extproc load``.

    scenario ─▶ planning (what) ─▶ runner (when) ─▶ sender (HTTP) ─▶ outcome ─▶ tally ─▶ report

All but ``runner`` and ``sender`` is pure. Terms: an *arrival* is a moment at which a request is
meant to be sent, whether or not it can be; *lag* is how much later it was sent; *TTFT* is the time
to the first token, from the arrival; a *gap* lies between two events of a stream that carry text.
"""
