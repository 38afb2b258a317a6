"""Prompts that begin alike: one goes first, and the others follow once the provider has read what they share.

Those who wait hold no slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

WARM_S = 240.0
"""How long a beginning that was read stays in a provider's cache; they say five minutes from its last use."""


class Warmth:
    """Which beginnings, by their digests, are in the providers' caches. *clock* is in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._warm_since: dict[str, float] = {}
        self._heating: dict[str, asyncio.Event] = {}

    def must_wait(self, prefix: str) -> bool:
        """Whether another call is just reading *prefix* for the first time."""
        return prefix in self._heating

    async def wait(self, prefix: str) -> None:
        """Return when *prefix* was read, or when that came to nothing."""
        while prefix in self._heating:
            await self._heating[prefix].wait()

    def enter(self, prefix: str) -> bool:
        """A call that begins with *prefix* is made; whether it is the one for which the others wait."""
        now = self._clock()
        if now - self._warm_since.get(prefix, -WARM_S) < WARM_S:
            self._warm_since[prefix] = now
            return False
        self._heating[prefix] = asyncio.Event()
        return True

    def warmed(self, prefix: str) -> None:
        """The answer to the first call has begun: what it begins with was read."""
        self._warm_since[prefix] = self._clock()
        self._let_go(prefix)

    def left(self, prefix: str, *, answered: bool) -> None:
        """The first call has ended; where it was not answered, another goes first."""
        if prefix in self._heating:
            self.warmed(prefix) if answered else self._let_go(prefix)

    def _let_go(self, prefix: str) -> None:
        waiting = self._heating.pop(prefix, None)
        if waiting is not None:
            waiting.set()
