"""The memory that all connections of a node share: what lies unread, and what wide windows promise. No frames here."""

from __future__ import annotations

from collections.abc import Callable

BUDGET_BYTES = 24 * 1024 * 1024
"""Unread stream bytes of a whole node."""
BUFFER_COST = 96
"""What a buffer costs besides its bytes: the objects around it."""


class Budget:
    """Bytes that all connections share: what lies unread, and what grown windows have promised.

    A connection may hold promises of up to twice what is left: one alone grows to two thirds of the whole, n of them to
    2/(2n+1) each, and something always remains for a newcomer. Source: Choudhury and Hahne 1998, "Dynamic queue length
    thresholds for shared-memory packet switches".
    """

    def __init__(self, size: int = BUDGET_BYTES) -> None:
        self.size = size
        self.unread = 0
        self.promised = 0
        self.evictions = 0
        self._accounts: dict[Account, None] = {}  # a set would break ties by address, and a seed would not repeat

    def account(self, evict: Callable[[], None]) -> Account:
        """An account for one connection; `evict` must end it and close the account at once."""
        account = Account(self, evict)
        self._accounts[account] = None
        return account

    def _make_room(self, size: int) -> None:
        while self.unread + size > self.size and self._accounts:
            worst = max(self._accounts, key=lambda account: account.unread)
            self.evictions += 1
            worst.evict()
            worst.close()


class Account:
    """One connection's part of a `Budget`."""

    __slots__ = ("_budget", "evict", "is_open", "promised", "unread")

    def __init__(self, budget: Budget, evict: Callable[[], None]) -> None:
        self._budget = budget
        self.evict = evict
        self.is_open = True
        self.unread = 0
        self.promised = 0

    def charge(self, size: int) -> bool:
        """Count bytes as unread, before they are kept. False when this very connection was evicted to make room."""
        budget = self._budget
        if budget.unread + size > budget.size:
            budget._make_room(size)
            if not self.is_open:
                return False
        self.unread += size
        budget.unread += size
        return True

    def release(self, size: int) -> None:
        """Bytes were read or dropped."""
        if self.is_open:
            self.unread -= size
            self._budget.unread -= size

    def promise(self, size: int) -> bool:
        """Ask for room to grow a window by; False when the budget has none."""
        budget = self._budget
        if not self.is_open or self.promised + size > 2 * (budget.size - budget.promised - size):
            return False
        self.promised += size
        budget.promised += size
        return True

    def withdraw(self, size: int) -> None:
        """A grown window is gone."""
        if self.is_open:
            self.promised -= size
            self._budget.promised -= size

    def close(self) -> None:
        """Give everything back. Safe to call twice."""
        if self.is_open:
            self.is_open = False
            self._budget.unread -= self.unread
            self._budget.promised -= self.promised
            self._budget._accounts.pop(self, None)
