"""The items of a `foreach`: a list that is there, or what comes one by one out of another `foreach`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol


class Items(Protocol):
    """Those that are there are taken one after another."""

    is_complete: bool
    """Whether all of them are there."""

    def __len__(self) -> int:
        """How many there are in the end."""

    def __getitem__(self, index: int) -> Any:
        """The item *index*, which was taken."""

    def take(self) -> int | None:
        """The index of the next one; None while none is there."""

    def lead_s(self, index: int) -> float:
        """How long it took to come, since the first began."""


class Listed:
    """All *values* are there, and come in their order."""

    is_complete = True

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values
        self._next = 0

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Any:
        return self._values[index]

    def take(self) -> int | None:
        if self._next == len(self._values):
            return None
        self._next += 1
        return self._next - 1

    def lead_s(self, index: int) -> float:  # noqa: ARG002 - as of those that come
        return 0.0


class Coming:
    """*size* items that come in any order."""

    def __init__(self, size: int) -> None:
        self.is_complete = False
        self._values: list[Any] = [None] * size
        self._came = bytearray(size)
        self._due: deque[int] = deque()
        self._leads_s: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Any:
        return self._values[index]

    def take(self) -> int | None:
        return self._due.popleft() if self._due else None

    def lead_s(self, index: int) -> float:
        return self._leads_s.pop(index, 0.0)

    def add(self, index: int, value: Any, lead_s: float) -> None:
        """The item *index* is there, *lead_s* after the first could have begun."""
        self._values[index] = value
        self._came[index] = True
        self._leads_s[index] = lead_s
        self._due.append(index)

    def complete(self, values: Sequence[Any]) -> None:
        """These are all of them: those that did not come are there now, most likely as null."""
        self._due.extend(index for index, came in enumerate(self._came) if not came)
        self._values = list(values)
        self.is_complete = True
