"""Values that nobody changes, without what that costs at run time.

A frozen dataclass sets each field through ``object.__setattr__``, which makes it three times as
slow to build; an exchange builds some fifty. The type checker holds these to be frozen, which is
where a change would be written; at run time they are plain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from dataclasses import dataclass

    def value(*, frozen: bool, slots: bool):  # noqa: ARG001 - see the other branch
        """Make a dataclass with equality and a hash by its fields."""
        return dataclass(slots=slots, unsafe_hash=True)


__all__ = ["value"]
