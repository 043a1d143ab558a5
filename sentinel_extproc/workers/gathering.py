"""What all processes of a sidecar tell, those that ended or hang included."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from sentinel_extproc.workers.drawer import Drawer
from sentinel_extproc.workers.shelf import Roster

T = TypeVar("T")


class Gathering(Generic[T]):
    """One kind of it.

    Args:
        roster: who there is, at each moment.
    """

    def __init__(self, drawer: Drawer[T], roster: Callable[[], Roster]) -> None:
        self._drawer = drawer
        self._roster = roster
        self._told: dict[int, T] = {}
        # One at a time: a process that ends meanwhile would be counted as both.
        self._one_at_a_time = asyncio.Lock()

    async def ask(self, ask: Callable[[], Awaitable[Mapping[int, T]]]) -> list[T]:
        """Of those that ended, as one; and of each that lives.

        Args:
            ask: asks them; answers by serial number, without those that gave none.
        """
        async with self._one_at_a_time:
            roster = self._roster()
            answers = await ask()
            found = [await self._retired(roster)]
            for serial in sorted(roster.alive):
                if serial in answers:
                    self._told[serial] = answers[serial]
                    found.append(answers[serial])
                    continue
                # One that hangs: what it last told or wrote keeps the sums from falling.
                wrote = self._drawer.read(serial)
                told = self._told.get(serial, self._drawer.kind.none)
                found.append(self._drawer.kind.later(told, wrote))
            return found

    async def tidy(self) -> None:
        """Put together what is left of those that ended, though nobody asks."""
        async with self._one_at_a_time:
            await self._retired(self._roster())

    async def _retired(self, roster: Roster) -> T:
        """``_retire`` in a thread, and to its end: whoever gives up meanwhile holds the lock until
        then, since two at a time would put the same files together."""
        work = asyncio.ensure_future(asyncio.to_thread(self._retire, roster))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            while not work.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait((work,))
            raise

    def _retire(self, roster: Roster) -> T:
        for serial in self._told.keys() - roster.alive:
            # One that was killed: what it told last may be more than what it had written.
            self._drawer.keep(serial, self._told.pop(serial))
        return self._drawer.retired(roster.alive, roster.last)
