"""Text that users chose (models, addresses), made harmless for terminals and spreadsheets. Pure."""

from __future__ import annotations

_FORMULA_STARTS = frozenset("=+-@\t\r\n＝＋－＠")
"""With these a spreadsheet takes a cell for a formula, which may call programs or send data away;
the wide forms are folded to the others by some."""


def for_terminal(text: str) -> str:
    """``text`` with everything that isn't visible spelt out: escape sequences, line breaks, and
    marks that turn the direction of writing."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _spelt(char) for char in text)


def for_bytes(text: str) -> str:
    """``text`` as UTF-8 can say it: a lone surrogate, which JSON can express, becomes ``?``."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def for_csv(text: str) -> str:
    """A cell that a spreadsheet shows as text: ``'`` goes before what could be a formula.

    Blanks in front don't help an attacker: some programs strip them.
    """
    harmless = for_terminal(text)
    if text[:1] in _FORMULA_STARTS or text.lstrip()[:1] in _FORMULA_STARTS:
        return f"'{harmless}"
    return harmless


def _spelt(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
