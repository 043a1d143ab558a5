"""A price list from YAML, every fault found at once.

::

    currency: USD
    models:                       # per million tokens, in quotes; names or globs, first match
      gpt-4o-mini: {input: "0.15", cached_input: "0.075", output: "0.60"}
      gpt-4o:      {input: "2.50", cached_input: "1.25", output: "10.00"}
      tts-1*:      {input: "15", output: "0", request: "0.001"}   # request: each
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sentinel_extproc.usage.prices import MILLION, Price, PriceList, nanos_of
from sentinel_extproc.yaml_file import YamlFileError, parse, read_text


class PricesFileError(YamlFileError):
    """A price list that can't be used."""


def _nanos(value: Any) -> int:
    # YAML reads 2.50 as a binary fraction, which is not what was written.
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError('must be a decimal number in quotes, such as "2.50"')  # noqa: TRY004
    try:
        return nanos_of(Decimal(value))
    except InvalidOperation:
        raise ValueError('must be a decimal number in quotes, such as "2.50"') from None


Nanos = Annotated[int, BeforeValidator(_nanos)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PriceEntry(_Entry):
    """See ``Price``; as decimal numbers per million tokens, ``request`` per request."""

    input: Nanos
    output: Nanos
    cached_input: Nanos | None = None
    audio_input: Nanos | None = None
    audio_output: Nanos | None = None
    image_input: Nanos | None = None
    image_output: Nanos | None = None
    request: Nanos = 0

    def price(self) -> Price:
        """The price it describes."""
        values = dict(self)
        return Price(**values | {"request": self.request * MILLION})


class PricesFile(_Entry):
    """The whole file."""

    currency: str = Field(pattern=r"^[A-Z]{3,8}$")
    models: dict[str, PriceEntry]


def load_prices(path: Path, canonical: Callable[[str], str]) -> PriceList:
    """Read a price list.

    Args:
        canonical: see ``PriceList``.

    Raises:
        PricesFileError: it can't be read, or says something that makes no price list.
    """
    return parse_prices(read_text(path, PricesFileError), canonical)


def parse_prices(text: str, canonical: Callable[[str], str]) -> PriceList:
    """A price list from YAML text.

    Raises:
        PricesFileError: with every fault.
    """
    file = parse(text, PricesFile, PricesFileError, whole="prices")
    entries = tuple((name, entry.price()) for name, entry in file.models.items())
    return PriceList(file.currency, entries, canonical)
