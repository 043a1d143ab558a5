"""HTML that is escaped by construction: what isn't ``Html`` already is text, and is escaped."""

from __future__ import annotations

from html import escape

_VOID = frozenset({"br", "hr", "input", "link", "meta"})
_UNSAFE = frozenset({"script", "style"})

Attribute = str | int | float | bool | None


class Html(str):
    """Text that is HTML. Made by ``el`` and ``document`` only."""

    __slots__ = ()


Child = str | Html


def el(tag: str, *children: Child, **attributes: Attribute) -> Html:
    """An element. A trailing ``_`` of an attribute's name is dropped, others become hyphens; True
    stands alone, False and None leave the attribute out.

    Raises:
        ValueError: a script or a style with content: those are files.
    """
    if tag in _UNSAFE and children:
        raise ValueError(f"no inline {tag}: the policy forbids it")
    head = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID:
        return Html(f"<{tag}{head}>")
    return Html(f"<{tag}{head}>{text(*children)}</{tag}>")


def text(*children: Child) -> Html:
    """Several as one, without an element around them."""
    return Html("".join(one if isinstance(one, Html) else escape(one) for one in children))


def document(head: Html, body: Html) -> bytes:
    """A whole page, UTF-8."""
    whole = el("html", el("head", head), body, lang="en")
    # A lone surrogate, which JSON can express, has no bytes.
    return f"<!doctype html>\n{whole}\n".encode("utf-8", "replace")


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = name.removesuffix("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value), quote=True)}"'
