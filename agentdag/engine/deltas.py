"""The text of one attempt as it streams in: told at its first piece, and then a few times a second."""

from __future__ import annotations

from agentdag.calls import BYTES_PER_TOKEN
from agentdag.engine.run import Run
from agentdag.events import NodeProgress

TOLD_EVERY_S = 0.2


class Deltas:
    """The pieces that node *name* is given."""

    __slots__ = ("_began_s", "_bytes", "_name", "_run", "_told_s", "_ttft_s")

    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self._name = name
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Another attempt begins."""
        self._began_s = self._told_s = now
        self._bytes = 0
        self._ttft_s: float | None = None

    def __call__(self, piece: str) -> None:
        """A piece of text came."""
        now = self._run.now()
        self._bytes += len(piece.encode("utf-8", "replace"))
        if self._ttft_s is None:
            self._ttft_s = now - self._began_s
        elif now - self._told_s < TOLD_EVERY_S:
            return
        self._told_s = now
        tokens = round(self._bytes / BYTES_PER_TOKEN)
        self._run.emit(NodeProgress(self._run.id, now, self._name, tokens, self._ttft_s))
