"""One run on record: its events as rows of the journal, each with what history asks for beside it.

What is told is written soon; what is committed is written before the next thing happens.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agentdag.calls import NO_USAGE, Usage
from agentdag.events import Event, NodeProgress, NodeSettled, NodeWaiting, RunFinished, RunProgress
from agentdag.store.codec import encoded
from agentdag.store.journal import Journal
from agentdag.store.schema import sealed
from agentdag.store.spill import Row

_ENCODER = json.JSONEncoder()
_NO_FACTS: tuple[Any, ...] = (None,) * 7
_NAMES = {"type", "run", "node", "model", "status", "reason", "arrived", "missing", "late", "pending"}
_MOST = 2**63 - 1
"""The largest whole number that the database takes."""
_PASSING = (NodeProgress, NodeWaiting, RunProgress)
"""What is of no use once it is over, or is told again at the node's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What is recorded of a run before anything else: *text* is its pipeline, as it was then."""

    id: str
    pipeline: str
    started: str
    text: str
    inputs: Mapping[str, Any]
    options: Mapping[str, Any]
    batch: str | None = None
    row: int | None = None


class Log:
    """The record of one life of a run. *past* is under which name its results serve as experience.

    *clean* takes secrets out of a JSON text. *seq* is the number of the last entry of the lives before.
    """

    def __init__(
        self, journal: Journal, run: Identity, clean: Callable[[str], str], *, life: int = 1, seq: int = 0, past: str
    ) -> None:
        self.journal = journal
        self._run = run
        self._clean = clean
        self._life = life
        self._seq = seq
        self._past = past
        self._says: str | None = None
        """What is different in this life, until it is written."""

    def begin(self, text: str) -> None:
        """The run exists, from now on; *text* is the digest of its pipeline's."""
        self.journal.append(partial(self._beginning, text, time.time()))

    def _beginning(self, text: str, at: float) -> Sequence[Row]:
        run = self._run
        return (Row("runs", sealed((run.id, run.pipeline, run.batch, run.row, at, self._said(text)))),)

    def go_on(self, text: str, before: Mapping[str, Any]) -> None:
        """The run goes on; where that is another than *before*, its next entry says what it is given now."""
        said = self._said(text)
        if json.loads(said) != before:
            self._says = said

    def _said(self, text: str) -> str:
        """What the run is given."""
        run = self._run
        body = {"started": run.started, "text": text, "inputs": run.inputs, "options": run.options}
        return self._clean(_ENCODER.encode(body))

    def tell(self, event: Event) -> None:
        """Write *event*, in its order."""
        if not isinstance(event, _PASSING):
            self.commit(event)

    def commit(
        self,
        event: Event,
        then: Callable[[], None] | None = None,
        *,
        fingerprint: str | None = None,
        asks: str | None = None,
    ) -> None:
        """Write *event*, then call *then*.

        *fingerprint* is of the request that is answered, *asks* (of `asks_json`) what an attempt is
        the first to ask.
        """
        self._seq += 1
        if self._says is not None:
            asks, self._says = self._says, None
        self.journal.append(partial(self._rows, self._seq, time.time(), event, fingerprint, asks), then)

    def recorded(self, event: Event, *, asks: str | None = None) -> asyncio.Future[None]:
        """Write *event*; the future is done once it is on record."""
        safe: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.commit(event, lambda: None if safe.done() else safe.set_result(None), asks=asks)
        return safe

    def fence(self, then: Callable[[], None]) -> None:
        """Call *then* once all that came before is safe."""
        self.journal.append(tuple, then)

    def _cleaned(self, body: str) -> str:
        """*body* without secrets; names of nodes and models are the file's own words, and stay."""
        clean = self._clean(body)
        if clean == body:
            return body
        plain, cleaned = json.loads(body), json.loads(clean)
        return json.dumps(cleaned | {name: plain[name] for name in _NAMES & plain.keys()})

    def _rows(self, seq: int, at: float, event: Event, fingerprint: str | None, asks: str | None) -> Sequence[Row]:
        body = self._cleaned(encoded(event))
        asked = None if asks is None else self._clean(asks)
        facts = _NO_FACTS
        if isinstance(event, NodeSettled):
            new = not (event.cached or event.kept)
            past = self._past if new and event.attempts else None
            usage = event.usage if new else NO_USAGE
            facts = (event.status.value, float(event.latency_s), event.attempts, *_paid(usage), past)
        elif isinstance(event, RunFinished):
            facts = (event.status.value, float(event.elapsed_s), None, *_paid(event.usage), None)
        node = getattr(event, "node", None)
        return (
            Row(
                "entries",
                sealed((self._run.id, seq, self._life, event.type, node, at, *facts, fingerprint, asked, body)),
            ),
        )


def asks_json(choice: int, pass_number: int, request: str) -> str:
    """What the fallback *choice* of a node (0: its own work) asks in a pass of it; *request* is JSON."""
    return f'{{"choice": {choice}, "pass": {pass_number}, "request": {request}}}'


def _paid(usage: Usage) -> tuple[int | None, int | None, str | None]:
    cost = None if usage.cost_usd is None else format(usage.cost_usd, "f")
    return _bounded(usage.input_tokens), _bounded(usage.output_tokens), cost


def _bounded(tokens: int | None) -> int | None:
    return None if tokens is None or tokens > _MOST else tokens
