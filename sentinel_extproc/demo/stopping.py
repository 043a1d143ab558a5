"""Parts that run until they are stopped, as context managers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Stopping(ABC):
    """The end of a ``with`` stops it. When that begins it runs, unless it says otherwise."""

    @abstractmethod
    def stop(self) -> object:
        """Stop it. May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()
