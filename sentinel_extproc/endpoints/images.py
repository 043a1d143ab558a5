"""``POST /v1/images/generations``, ``/edits`` and ``/variations``. Pure.

Counted: the prompt. Reserved: constants by size and quality for each image asked for, and for each
given. Settled: to the provider's usage; models that report none cost what was reserved.
"""

from __future__ import annotations

from typing import Any

from msgspec import structs

from sentinel_extproc.endpoints import image_tokens, json_body
from sentinel_extproc.endpoints.contract import (
    NO_HEAD,
    CounterFactory,
    CountRequest,
    Head,
    Meter,
    Plan,
)
from sentinel_extproc.endpoints.events import ConstantReader, EventMeter
from sentinel_extproc.endpoints.form import (
    FormEndpoint,
    form_count,
    form_model,
    is_form,
    read_form,
)
from sentinel_extproc.endpoints.meters import EdgeMeter, text_of
from sentinel_extproc.endpoints.multipart import FormScanner
from sentinel_extproc.endpoints.provider_usage import read_image_usage
from sentinel_extproc.errors import InvalidRequest

MAX_IMAGES = 10
"""OpenAI's bound on ``n``."""

_MAX_PARTIAL = 3
"""OpenAI's bound on ``partial_images``."""

_DEFAULT_MODEL = "dall-e-2"
"""What OpenAI takes when none is named, by its API reference."""


class Images(FormEndpoint):
    """Rules for one of the three.

    Args:
        given: whether images are given, and not only made.
    """

    def __init__(self, name: str, *, given: bool) -> None:
        self.name = name
        self.json_too = True
        self._given = given

    def plan(self, body: bytes | None, head: Head = NO_HEAD) -> Plan:
        if self._given and is_form(head):
            form = read_form(body, head)
            fields: dict[str, Any] = dict(form.fields)
            for name, most in (("n", MAX_IMAGES), ("partial_images", _MAX_PARTIAL)):
                if fields.get(name) != "0":
                    fields[name] = form_count(form, name, most=most)
                else:
                    fields[name] = 0
            return self._plan(fields, images=len(form.files), size=len(body or b""))
        request = json_body.parse_object(body)
        given = request.get("images") or request.get("image") or []
        images = len(given) if isinstance(given, list) else 1
        return self._plan(request, images=images, size=len(body or b""))

    def _plan(self, request: dict[str, Any], *, images: int, size: int) -> Plan:
        named = {} if request.get("model") is None else {"model": request["model"]}
        model = json_body.model_name({"model": _DEFAULT_MODEL} | named)
        prompt = request.get("prompt")
        if prompt is not None and not isinstance(prompt, str):
            raise InvalidRequest("'prompt' must be a string.", param="prompt")
        asked = json_body.optional_count(request, "n", least=1, most=MAX_IMAGES) or 1
        partial = (
            json_body.optional_count(request, "partial_images", least=0, most=_MAX_PARTIAL) or 0
        )
        each = image_tokens.made(text_of(request.get("size")), text_of(request.get("quality")))
        fidelity = text_of(request.get("input_fidelity"))
        return Plan(
            endpoint=self.name,
            model=model,
            count=CountRequest("embeddings", {"model": model, "input": prompt or ""}, size),
            input_tokens=image_tokens.PROMPT + images * image_tokens.given(fidelity),
            output_cap=asked * (each + partial * image_tokens.PARTIAL),
        )

    def plan_head(self, head: Head) -> Plan | None:
        return super().plan_head(head) if self._given else None

    def unseen(self, size: int, upload: FormScanner) -> Plan:
        # The prompt and the number of images can't be told apart by size: one image each way is
        # what most ask for, and the rest is settled as debt.
        del size
        return Plan(
            endpoint=self.name,
            model="",
            input_tokens=image_tokens.PROMPT + image_tokens.given("high"),
            output_cap=image_tokens.made("", ""),
            upload=upload,
        )

    def refined(self, plan: Plan) -> Plan:
        if not isinstance(plan.upload, FormScanner):
            return plan
        form = plan.upload.form
        plan = structs.replace(
            plan, model=form_model(form) or (_DEFAULT_MODEL if form.complete else "")
        )
        if form.unclear or not form.complete:
            return plan
        images = len(form.files) * image_tokens.given(form.fields.get("input_fidelity", ""))
        prompt = image_tokens.PROMPT + len(form.fields.get("prompt", "")) // 3
        try:
            asked = form_count(form, "n", most=MAX_IMAGES) or 1
        except InvalidRequest:
            asked = 1
        each = image_tokens.made(form.fields.get("size", ""), form.fields.get("quality", ""))
        return structs.replace(plan, input_tokens=prompt + images, output_cap=asked * each)

    def meter(self, plan: Plan, *, event_stream: bool, counters: CounterFactory) -> Meter:  # noqa: ARG002
        made = plan.output_cap or 0
        if event_stream:
            return EventMeter(ConstantReader(made, read_image_usage), by_size=False)
        return EdgeMeter(output_tokens=made, read=read_image_usage)
