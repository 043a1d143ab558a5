"""docs/benchmarks.md and its picture say what the last recorded run measured."""

from __future__ import annotations

import pytest

from bench.report import PAGE, PICTURE, RESULTS, between, page, picture, read


@pytest.mark.skipif(not RESULTS.exists(), reason="no run has been recorded")
def test_the_page_and_the_picture_are_the_last_runs() -> None:
    run = read(RESULTS)
    text = PAGE.read_text(encoding="utf-8")
    assert text == between(text, page(run)), "run `python -m bench.report`"
    assert PICTURE.read_text(encoding="utf-8") == picture(run), "run `python -m bench.report`"
