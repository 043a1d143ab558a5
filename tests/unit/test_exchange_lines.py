"""The index of a message's headers against a look at all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sentinel_extproc.exchange.lines import Lines, all_values, first, first_values

GIVEN = st.lists(st.tuples(st.sampled_from("abc"), st.binary(max_size=2)))


@given(GIVEN)
def test_the_index_knows_what_is_there_also_twice(given_lines: list[tuple[str, bytes]]) -> None:
    for headers in (given_lines, tuple(given_lines), Lines(given_lines)):
        for name in "abcd":
            values = [value for key, value in given_lines if key == name]
            assert all_values(headers, name) == values
            assert first(headers, name) == (values[0] if values else b"")
        assert list(headers) == given_lines
        assert first_values(headers).keys() == {name for name, _ in given_lines}
