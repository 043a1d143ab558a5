"""Which process a log line is from, where there are several."""

from __future__ import annotations

import logging


class WorkerField(logging.Filter):
    """Adds ``worker`` to every record."""

    def __init__(self, worker: int | str) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        record.worker = self._worker
        return True


def name_log_lines(worker: int | str) -> None:
    """From now on, in this process."""
    for handler in logging.getLogger().handlers:
        handler.filters[:] = [one for one in handler.filters if not isinstance(one, WorkerField)]
        handler.addFilter(WorkerField(worker))
