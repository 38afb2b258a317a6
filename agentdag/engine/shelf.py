"""Large outputs, set aside: they are on record already, and are read from there by whoever still wants them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentdag.engine.run import Run
from agentdag.errors import StoreError
from agentdag.events import NodeSettled
from agentdag.store.codec import decoded
from agentdag.store.history import History

LARGE = 256 * 1024
"""Characters, about, from which on an output is set aside."""


@dataclass(frozen=True, slots=True)
class Shelved:
    """Stands for the output of the node *name* of *run*, which the store in *folder* has."""

    folder: Path
    run: str
    name: str

    def output(self) -> Any:
        """What it stands for; raises StoreError where it cannot be read any more."""
        found = None
        with closing(History(self.folder)) as history:
            for entry in history.entries(self.run, node=self.name):
                if entry.type == NodeSettled.type:
                    found = decoded(entry.body)
        if not isinstance(found, NodeSettled):
            raise StoreError(f"the output of `{self.name}` is gone from the store {self.folder}")
        return found.output


def shelved(run: Run, settled: NodeSettled) -> NodeSettled:
    """*settled*, which is on record, without its output where that is large."""
    log = run.log
    if log is None or log.journal.broken is not None or not _is_large(settled.output):
        return settled
    stand_in = Shelved(log.journal.folder, run.id, settled.node)
    return replace(settled, output=stand_in)


def unshelved(settled: NodeSettled) -> NodeSettled:
    """*settled* with its output."""
    return replace(settled, output=settled.output.output()) if isinstance(settled.output, Shelved) else settled


class Ended(Mapping[str, NodeSettled]):
    """How nodes have ended, by their names, each with its output when it is asked for."""

    def __init__(self, settled: Mapping[str, NodeSettled]) -> None:
        self._settled = settled

    def __getitem__(self, name: str) -> NodeSettled:
        return unshelved(self._settled[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._settled)

    def __len__(self) -> int:
        return len(self._settled)

    def __repr__(self) -> str:
        return f"Ended({list(self._settled)})"


def _is_large(value: Any) -> bool:
    """Whether *value* has more than `LARGE` characters, about."""
    size, left = 0, [value]
    while left and size <= LARGE:
        part = left.pop()
        if isinstance(part, str):
            size += len(part)
        elif isinstance(part, dict):
            size += sum(map(len, part))
            left += part.values()
        elif isinstance(part, list):
            size += len(part)
            left += part
    return size > LARGE
