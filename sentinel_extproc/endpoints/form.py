"""Endpoints that take ``multipart/form-data``. Pure.

A form up to ``MAX_KEPT_BYTES`` is read whole before it is decided on, so that its model and its
numbers are known to the limits. A larger one is decided on by its size and the most that it could
ask for, then flows on; what passes tells the record its model and refines the estimate.
"""

from __future__ import annotations

from sentinel_extproc.endpoints.base import OpenAIEndpoint
from sentinel_extproc.endpoints.contract import Head, Plan
from sentinel_extproc.endpoints.json_body import MAX_MODEL_CHARS
from sentinel_extproc.endpoints.multipart import Form, FormScanner, boundary_of
from sentinel_extproc.errors import InvalidRequest, LengthRequired

MAX_KEPT_BYTES = 512 << 10
"""Half of Envoy's default buffer, over which it would answer 413."""


class FormEndpoint(OpenAIEndpoint):
    """An endpoint whose forms may be large."""

    json_too = False
    """Whether a JSON body is understood besides."""

    def plan_head(self, head: Head) -> Plan | None:
        if self.json_too and not is_form(head):
            return None
        boundary = form_boundary(head)
        if head.content_length is None:
            raise LengthRequired("A form must come with Content-Length here.")
        if head.content_length <= MAX_KEPT_BYTES:
            return None
        return self.unseen(head.content_length, FormScanner(boundary))

    def unseen(self, size: int, upload: FormScanner) -> Plan:
        """The plan for a form of ``size`` bytes that has yet to come."""
        raise NotImplementedError


def is_form(head: Head) -> bool:
    """Whether the content type is a form's, however broken."""
    return head.content_type.strip().lower().startswith("multipart/")


def form_boundary(head: Head) -> bytes:
    """The boundary.

    Raises:
        InvalidRequest: it is no form, or without a usable boundary.
    """
    boundary = boundary_of(head.content_type)
    if boundary is None:
        raise InvalidRequest(
            "The body must be multipart/form-data with a boundary.", code="invalid_form"
        )
    return boundary


def read_form(body: bytes | None, head: Head) -> Form:
    """Read a whole form.

    Raises:
        InvalidRequest: it isn't one, or could be read in two ways.
    """
    scanner = FormScanner(form_boundary(head))
    scanner.feed(body or b"")
    form = scanner.form
    if form.unclear or not form.complete:
        why = form.unclear or "no closing boundary"
        raise InvalidRequest(f"The form can't be read: it has {why}.", code="invalid_form")
    return form


def form_model(form: Form) -> str:
    """The model that a form names; empty if it names none that can be used."""
    model = form.fields.get("model", "")
    return model if len(model) <= MAX_MODEL_CHARS and model.isprintable() else ""


def form_count(form: Form, name: str, *, most: int) -> int | None:
    """A whole number from 1 to ``most``; None when absent.

    Raises:
        InvalidRequest: anything else.
    """
    text = form.fields.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise InvalidRequest(f"'{name}' must be between 1 and {most}.", param=name)
    return int(text)
