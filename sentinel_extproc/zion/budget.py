"""A retry budget: retries may add only a fraction to the calls made. Pure."""

from __future__ import annotations


class RetryBudget:
    """Grants one retry per ``1 / ratio`` calls, with a small reserve for quiet times.

    Without it, retries double the load on a service exactly when it is failing.
    """

    def __init__(self, *, ratio: float = 0.1, reserve: float = 10.0) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self._balance = reserve

    def deposit(self) -> None:
        """One call was made."""
        self._balance = min(self._balance + self._ratio, self._reserve)

    def withdraw(self) -> bool:
        """Whether one retry may be made now; takes it from the budget."""
        if self._balance < 1:
            return False
        self._balance -= 1
        return True
