"""``serve`` with several workers, put together."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uuid_utils
import uvloop

from sentinel_extproc import app
from sentinel_extproc.config.load import ConfigError, load
from sentinel_extproc.config.settings import Settings
from sentinel_extproc.config.workers import worker_addresses
from sentinel_extproc.start_error import StartError
from sentinel_extproc.telemetry.worker_field import name_log_lines
from sentinel_extproc.tokens.encodings import preload
from sentinel_extproc.transport.server import ServerError
from sentinel_extproc.usage import files
from sentinel_extproc.usage.files import OutboxError
from sentinel_extproc.workers.front import serve_front
from sentinel_extproc.workers.lifeline import Lifeline
from sentinel_extproc.workers.place import Place
from sentinel_extproc.workers.seats import Seats
from sentinel_extproc.workers.shelf import Shelf, make_shelf
from sentinel_extproc.workers.supervision import FRONT, Rules, Supervision
from sentinel_extproc.workers.supervisor import NewProcess, Supervisor, one_thread, settle_memory

log = logging.getLogger("sentinel.workers")

EXIT_START = 1

_SPARE_S = 30.0
"""For what a drain takes beside the times that are configured: settling, closing."""


def run_workers(settings: Settings, config_file: Path | None, count: int) -> int:
    """Run ``count`` workers until SIGTERM or SIGINT; the exit code. SIGHUP has each reload, SIGUSR2
    has them replaced, one after the other, under settings read anew.

    Raises:
        OutboxError, StartError: it can't start.
    """
    with ExitStack() as stack:
        outbox = settings.usage.outbox_path
        files.make_directory(outbox.parent)
        # Two sidecars on one outbox would take turns at its files.
        lock = files.lock(outbox.with_name(f"{outbox.name}.workers"))
        stack.callback(os.close, lock)
        try:
            shelf = make_shelf(outbox.parent)
        except OSError as fault:
            raise StartError(f"no place for the workers' own files: {fault}") from None
        stack.callback(shelf.clear)
        seats = Seats(
            worker_addresses(settings.server.listen, count),
            socket_mode=settings.server.socket_mode,
        )
        stack.callback(seats.close_all)
        fleet = _Fleet(settings, config_file, count, seats, shelf, lock)
        supervision = Supervision(count, front=settings.admin.enabled, rules=_rules(settings))
        supervisor = Supervisor(
            supervision, seats, shelf, become=fleet.become, renew=fleet.read_again
        )
        preload()
        settle_memory()
        if not one_thread():
            log.error("forking_beside_threads")
        return supervisor.run()


def _rules(settings: Settings) -> Rules:
    server, usage = settings.server, settings.usage
    drain_s = server.drain_seconds + server.hand_back_seconds + usage.shutdown_seconds + _SPARE_S
    return Rules(silent_s=server.worker_silent_seconds, drain_s=drain_s)


class _Fleet:
    """What the processes of one sidecar are made of."""

    def __init__(
        self,
        settings: Settings,
        config_file: Path | None,
        count: int,
        seats: Seats,
        shelf: Shelf,
        lock: int,
    ) -> None:
        self._settings = settings
        self._config_file = config_file
        self._count = count
        self._seats = seats
        self._shelf = shelf
        self._lock = lock

    def read_again(self) -> bool:
        """Take the settings as they are now for processes that start from now on."""
        try:
            new = load(self._config_file)
        except ConfigError as error:
            log.error("replacing_refused", extra={"faults": error.faults})  # noqa: TRY400
            return False
        except Exception:
            log.exception("replacing_refused")  # nothing of it may end the supervisor
            return False
        self._settings = fit_for_successors(new, self._settings)
        if self._settings != new:
            names = ["admin", "server.listen", "server.workers", "usage.outbox_path"]
            log.warning("needs_restart", extra={"one_of": names})
        return True

    def become(self, new: NewProcess) -> int:
        """In a new process."""
        os.close(self._lock)  # it is the supervisor's, and ends with it
        uuid_utils.reseed_rng()
        if new.seat == FRONT:
            name_log_lines("admin")
            return _run(
                serve_front(self._settings, self._shelf, Lifeline(new.channel)),
            )
        name_log_lines(new.seat)
        assert new.listening is not None  # noqa: S101 - every worker has one
        place = Place(
            index=new.seat,
            count=self._count,
            address=self._seats.addresses[new.seat],
            listening=new.listening,
            lifeline=Lifeline(new.channel),
            admin=self._shelf.admin_of(new.serial),
            counts=self._shelf.counts.file_of(new.serial),
            past=self._shelf.pasts.file_of(new.serial),
            successor=new.successor,
        )
        return _run(app.serve(self._settings, self._config_file, place=place))


def fit_for_successors(new: Settings, old: Settings) -> Settings:
    """The new settings, but for those that all processes of a sidecar must have in common: who is
    where, and which outboxes the first worker looks after."""
    server = {"listen": old.server.listen, "workers": old.server.workers}
    return new.model_copy(
        update={
            "admin": old.admin,
            "server": new.server.model_copy(update=server),
            "usage": new.usage.model_copy(update={"outbox_path": old.usage.outbox_path}),
        }
    )


def _run(job: Coroutine[Any, Any, None]) -> int:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(job)
    except (StartError, ServerError, OutboxError, ValueError) as error:
        sys.stderr.write(f"sentinel-extproc can't start: {error}\n")
        return EXIT_START
    return 0
