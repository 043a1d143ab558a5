"""Which process a log line is from, where there are several."""

from __future__ import annotations

import logging

import structlog
from structlog.typing import EventDict


class WorkerField(logging.Filter):
    """Adds ``worker`` to every record."""

    def __init__(self, worker: int | str) -> None:
        super().__init__()
        self.worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        record.worker = self.worker
        return True

    def __call__(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        """As a processor of structlog's, through which facts go."""
        event["worker"] = self.worker
        return event


def name_log_lines(worker: int | str) -> None:
    """From now on, in this process."""
    field = WorkerField(worker)
    others = [
        one for one in structlog.get_config()["processors"] if not isinstance(one, WorkerField)
    ]
    structlog.configure(processors=[field, *others])
    for handler in logging.getLogger().handlers:
        handler.filters[:] = [one for one in handler.filters if not isinstance(one, WorkerField)]
        handler.addFilter(field)
