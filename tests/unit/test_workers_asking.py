"""Asking workers that come and go, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from sentinel_extproc.workers.asking import Workers
from sentinel_extproc.workers.shelf import Shelf
from tests.fleet_fakes import roster


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readline():
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    writer.close()


@asynccontextmanager
async def _worker(shelf: Shelf, serial: int) -> AsyncIterator[None]:
    path = shelf.admin_of(serial).removeprefix("unix:")
    server = await asyncio.start_unix_server(_answer, path)
    try:
        yield
    finally:
        server.close()


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[tuple[Workers, Shelf]]:
    shelf = Shelf(tmp_path)
    asked = Workers(shelf)
    async with AsyncExitStack() as stack:
        for serial in (1, 2, 3, 4):
            await stack.enter_async_context(_worker(shelf, serial))
        yield asked, shelf
        await asked.aclose()


async def test_two_that_ask_at_once_after_several_workers_have_ended(
    workers: tuple[Workers, Shelf],
) -> None:
    asked, shelf = workers
    shelf.write_roster(roster(1, 2, last=2))
    assert len(await asked.each("GET", "/")) == 2
    shelf.write_roster(roster(3, 4, last=4))
    found = await asyncio.gather(*(asked.each("GET", "/") for _ in range(3)))
    assert [[answer.worker.serial for answer in one] for one in found] == [[3, 4]] * 3
