"""What the entries of one run add up to: how far each node has come, and what may have been paid for in vain."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from agentdag.calls import MAYBE_BILLED, NO_USAGE, NOTHING, Amount, Exchange, ToolResult, Usage
from agentdag.errors import ErrorKind, Failure
from agentdag.events import (
    BarrierOpened,
    Event,
    NodeFallback,
    NodeHedged,
    NodeResumed,
    NodeRetrying,
    NodeSettled,
    NodeStarted,
    PassFinished,
    RunFinished,
    Status,
    ToolFinished,
    ToolStarted,
    TurnFinished,
)
from agentdag.store.codec import decoded


class Entry(NamedTuple):
    """One entry as it was written. `time` is in seconds since 1970."""

    seq: int
    life: int
    type: str
    node: str | None
    time: float
    fingerprint: str | None
    asked: str | None
    body: str


@dataclass(slots=True)
class NodeRecord:
    """How far a node has come."""

    ended: NodeSettled | None = None
    """Its last end, if nothing of it was begun after that."""
    answers: dict[str, NodeSettled] = field(default_factory=dict)
    """Its complete successes, by the fingerprint of what was asked."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What it asked last, by the parts of its request."""
    opened: BarrierOpened | None = None
    """What it saw when its barrier opened, or when its last pass began."""
    opened_in: int = 0
    """In which life that was."""
    missed: dict[str, NodeSettled] = field(default_factory=dict)
    """How those had ended then that it went on without, so far as they had."""
    passes: list[PassFinished] = field(default_factory=list)
    turns: list[TurnFinished] = field(default_factory=list)
    """Of the conversation that it was holding."""
    results: dict[str, ToolResult] = field(default_factory=dict)
    """What the tool calls of its last turn came to, by their ids."""
    wrote: dict[str, str] = field(default_factory=dict)
    """The tools that change something and were called, where no end of the call is recorded, by the calls' ids."""
    used: Usage = NO_USAGE
    """What its turns took since it ended last."""
    out: NodeStarted | None = None
    """Its last attempt, where no end of it is recorded."""
    reserved: Amount = NOTHING
    """What its calls may have cost since it began last."""
    last_reserved: Amount = NOTHING
    """What its last call may have cost."""
    charged: Amount = NOTHING
    """What it took of the budget before that."""

    @property
    def taken(self) -> Amount:
        """What it took of a budget in all: of a call that was cut off, the most."""
        return self.charged + self.reserved

    def reserve(self, amount: Amount | None) -> None:
        """A call is made that may cost *amount*."""
        self.last_reserved = amount or NOTHING
        self.reserved += self.last_reserved

    def came_to_nothing(self, failure: Failure) -> None:
        """Its last attempt has failed; what was not billed is free again."""
        self.out = None
        if failure.billed == "no":
            self.reserved -= self.last_reserved
        self.last_reserved = NOTHING

    def converse(self, event: TurnFinished | ToolStarted | ToolFinished) -> None:
        """A turn of its conversation is over, or a tool that was asked for in it has begun or ended."""
        match event:
            case TurnFinished():
                self.out = None
                if self.turns and self.turns[-1].exchange.calls:  # all of its tools had ended
                    self.turns[-1] = replace(self.turns[-1], exchange=self.exchanges[-1])
                self.turns.append(event)
                self.used += event.usage
                self.results, self.wrote = {}, {}
            case ToolStarted():
                if event.writes:
                    self.wrote[event.call] = event.tool
            case ToolFinished():
                self.wrote.pop(event.call, None)
                self.results[event.call] = ToolResult(event.call, event.result, event.error is not None, event.value)

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """The conversation that it was holding, as far as it had come."""
        said = [turn.exchange for turn in self.turns]
        if said and said[-1].calls:
            done = tuple(self.results[call.id] for call in said[-1].calls if call.id in self.results)
            said[-1] = replace(said[-1], results=done)
        return tuple(said)

    @property
    def in_doubt(self) -> bool:
        """Whether nobody knows what became of its last attempt, or of a tool that changes something."""
        if self.wrote and (self.ended is None or self.ended.status is Status.CANCELLED):
            return True
        return self.out is not None and (self.ended is None or self.ended.status is Status.CANCELLED)


@dataclass(slots=True)
class RunRecord:
    """One run as far as it has come. `spent` is what all its lives have used."""

    id: str
    pipeline: str
    batch: str | None
    """Of which batch it is a row."""
    started: str
    text: str
    given: Mapping[str, Any]
    """What was written of its inputs and options when its last life began, and the digest of its pipeline's text."""
    nodes: dict[str, NodeRecord] = field(default_factory=dict)
    finished: RunFinished | None = None
    """How its last life ended, if it came to an end of its own."""
    lives: int = 1
    seq: int = 0
    spent: Usage = NO_USAGE

    @property
    def inputs(self) -> Mapping[str, Any]:
        inputs: Mapping[str, Any] = self.given["inputs"]
        return inputs

    @property
    def options(self) -> Mapping[str, Any]:
        options: Mapping[str, Any] = self.given["options"]
        return options

    @property
    def charged(self) -> Amount:
        """What all its lives took of a budget, as far as one was there: of a call that was cut off, the most."""
        return sum((node.taken for node in self.nodes.values()), NOTHING)

    def node(self, name: str) -> NodeRecord:
        return self.nodes.setdefault(name, NodeRecord())

    def fold(self, entries: Iterable[Entry]) -> RunRecord:
        """Take in *entries*, in their order; what cannot be read is as if it had not been written."""
        simulated = bool(self.options.get("simulate"))
        for entry in entries:
            if entry.life > self.lives:
                self._book_doubts(simulated=simulated)
                self.finished = None
            self.lives = max(self.lives, entry.life)
            try:
                if entry.asked is not None and entry.node is not None:
                    self._asked(entry.node, json.loads(entry.asked))
                self._take_in(decoded(entry.body), entry.fingerprint)
            except (ValueError, KeyError, TypeError):
                continue
        if self.finished is None:
            self._book_doubts(simulated=simulated)
        return self

    def _book_doubts(self, *, simulated: bool) -> None:
        for node in self.nodes.values():
            self.spent += node.used
            node.used = NO_USAGE
            asked = node.out.model if node.out is not None else None
            free = asked is None or simulated or asked.startswith("simulated/")
            if node.in_doubt and node.ended is None and not free:
                self.spent += MAYBE_BILLED

    def _asked(self, name: str, body: Mapping[str, Any]) -> None:
        if body["choice"] == 0:
            self.node(name).asked = body["request"]

    def _take_in(self, event: Event, fingerprint: str | None) -> None:
        match event:
            case RunFinished():
                self.finished = event
            case BarrierOpened():
                self._opened(self.node(event.node), event)
            case NodeResumed(kept=True) if fingerprint is not None:
                node = self.node(event.node)
                node.out, node.ended = None, node.answers.get(fingerprint, node.ended)
                self._sees_all(node)
            case NodeStarted() | NodeHedged() | NodeRetrying() | NodeFallback():
                self._called(self.node(event.node), event)
            case TurnFinished() | ToolStarted() | ToolFinished():
                self.node(event.node).converse(event)
            case PassFinished():
                node = self.node(event.node)
                node.out = None
                node.passes = [*node.passes[: event.pass_number - 1], event]
                self._forget_within(event.node)
            case NodeSettled():
                self._settled(self.node(event.node), event, fingerprint)

    def _called(self, node: NodeRecord, event: NodeStarted | NodeHedged | NodeRetrying | NodeFallback) -> None:
        """An attempt began, or has failed."""
        match event:
            case NodeStarted():
                node.out, node.ended = event, None
                node.reserve(event.reserved)
                if event.turn == 1:
                    node.turns, node.results, node.wrote = [], {}, {}
                if (event.attempt, event.pass_number) == (1, 1):
                    self._sees_all(node)
            case NodeHedged():
                node.reserve(event.reserved)
            case NodeRetrying() | NodeFallback():
                node.came_to_nothing(event.error)

    def _forget_within(self, name: str) -> None:
        """A pass of a pipeline has ended: its nodes are asked anew in the next one, and no answer serves again."""
        for inner, node in self.nodes.items():
            if inner.startswith(f"{name}."):
                node.opened, node.ended, node.passes, node.turns, node.answers = None, None, [], [], {}

    def _opened(self, node: NodeRecord, event: BarrierOpened) -> None:
        if node.opened is None or _sight(node.opened) != _sight(event):
            ended = {name: self.node(name).ended for name in event.missing}
            node.missed = {name: end for name, end in ended.items() if end is not None}
        node.opened, node.opened_in = event, self.lives
        if event.pass_number == 1:
            node.passes = []

    def _sees_all(self, node: NodeRecord) -> None:
        """It goes on in this life; where nothing is told of what it sees, all that it needs is there."""
        if node.opened_in < self.lives:
            node.opened, node.missed = None, {}

    def _settled(self, node: NodeRecord, event: NodeSettled, fingerprint: str | None) -> None:
        if not (event.cached or event.kept or event.parts is not None):
            self.spent += event.usage
            node.charged += event.charged or NOTHING
            node.reserved = node.last_reserved = NOTHING
            node.used = NO_USAGE
            if event.error is None or event.error.kind is ErrorKind.INVALID_OUTPUT:
                node.turns = [] if event.status is not Status.CANCELLED else node.turns
        begun = node.out is not None and not (event.passes == 1 and event.attempts < node.out.attempt)
        if event.status is not Status.CANCELLED or not begun:
            node.out = None
        node.ended = event
        if fingerprint is None:
            return
        if event.status is Status.SUCCEEDED:
            node.answers[fingerprint] = event
        elif event.error is not None and event.error.kind is ErrorKind.SAVE:  # the answer is there all the same
            node.answers[fingerprint] = replace(event, status=Status.SUCCEEDED, error=None)


def _sight(event: BarrierOpened) -> tuple[tuple[str, ...], ...]:
    return event.arrived, event.missing, event.late, event.pending
