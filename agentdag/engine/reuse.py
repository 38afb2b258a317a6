"""Whether a node's work is there already: from an earlier life of this run, out of the cache, or from another run.

A request is known again by its fingerprint, wherever the node stands; only complete successes are taken.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from agentdag.calls import NO_USAGE, Exchange
from agentdag.engine.asks import Question
from agentdag.errors import ErrorKind, Failure
from agentdag.events import NodeSettled, Status, base_name
from agentdag.plan.plan import Plan, PlanNode
from agentdag.store.fold import NodeRecord, RunRecord
from agentdag.store.history import History

SKIPPED = "--skip"
"""Why a node did not run that was not to."""


class Verdict(NamedTuple):
    """What is there of a node, if anything, and why that is taken, or why its work is done."""

    settled: NodeSettled | None
    why: str
    fingerprint: str | None = None


@dataclass
class Reuse:
    """What may be taken. *record* is of the earlier lives of the run; *history* of all runs of the store.

    *borrowed* are the nodes that are not to run: their answers come from other runs. With *cache* every node is looked
    up there, not only those that say so; *repeat* are run whatever is there, *skip* not at all.
    """

    plan: Plan
    record: RunRecord | None = None
    history: History | None = None
    borrowed: frozenset[str] = frozenset()
    repeat: frozenset[str] = frozenset()
    skip: frozenset[str] = frozenset()
    cache: bool = False
    clean: Callable[[str], str] = str
    """Takes out of a JSON text what is not on record: secrets."""
    _claimed: set[tuple[str, str]] = field(default_factory=set)
    """The answers that went to a node of another name."""
    _asks: dict[str, str] = field(default_factory=dict)
    """What nodes are about to ask, so far as is known."""
    _owned: dict[str, list[str]] | None = None
    _skips: frozenset[str] | None = None
    _known: frozenset[str] = field(init=False)
    _rounds: frozenset[str] = field(init=False)
    """The nodes of pipelines that repeat: what they ask again, they want to know anew."""

    def __post_init__(self) -> None:
        self._known = frozenset(name for name, _, _ in self.plan.walk())
        rounds = [f"{name}." for name, _, node in self.plan.walk() if node.repeat is not None and node.body is not None]
        self._rounds = frozenset(name for name in self._known if name.startswith(tuple(rounds)))

    @property
    def resumes(self) -> bool:
        """Whether the run goes on with what it did before."""
        return self.record is not None

    def recorded(self, node: str) -> NodeRecord | None:
        """How far *node* had come before."""
        return None if self.record is None else self.record.nodes.get(node)

    @property
    def skips(self) -> frozenset[str]:
        """The nodes that are not to run any more, by what was said now or in an earlier life."""
        if self._skips is None:
            record = self.record.nodes if self.record is not None else {}
            before = {name for name, each in record.items() if each.ended is not None and each.ended.reason == SKIPPED}
            self._skips = (self.skip | before) - self.repeat
        return self._skips

    def is_repeated(self, name: str) -> bool:
        """Whether the node, or instance, *name* is to run whatever is there of it, by itself or with what it is in."""
        if not self.repeat:
            return False
        base = base_name(name)
        return not self.repeat.isdisjoint({name, base, *_around(name), *_around(base)})

    def is_skipped(self, name: str) -> bool:
        """Whether the node, or instance, *name* is not to run."""
        return name in self.skips or base_name(name) in self.skips

    def concerns(self, node: PlanNode, name: str) -> bool:
        """Whether anything may be there of *node*, by its whole *name*, so that it is worth looking."""
        return self.record is not None or self._is_borrowed(name) or self._age_s(node, name) is not None

    def _is_borrowed(self, name: str) -> bool:
        """Whether *name* is a node, or within one, that is not to run."""
        return bool(self.borrowed) and base_name(name).partition(".")[0] in self.borrowed

    def look(self, node: PlanNode, name: str, question: Question) -> Verdict:
        """What is there of *node*, whose whole name is *name* and which is about to put *question*, as was heard."""
        if self.is_repeated(name):
            return Verdict(None, "it is to be repeated")
        print_ = question.fingerprint
        if self._was_repeated(name, question):
            return Verdict(None, "it was being repeated when the run was cut off")
        before = self._before(name, print_)
        if before is not None:
            return Verdict(before, "the same request was answered before", print_)
        if self._is_borrowed(name):
            return self._borrow(name, print_)
        age_s = self._age_s(node, name)
        if age_s is not None and self.history is not None:
            found = self.history.answer(print_, since=time.time() - age_s)
            if found is not None:
                hit = replace(found, cached=True, kept=False)
                return Verdict(_free(hit), f"the same request was answered in run {found.run}", print_)
        return Verdict(None, self._why_again(name, question))

    def turns(self, name: str, question: Question) -> tuple[Exchange, ...]:
        """The turns of a conversation on *question* that the node *name* had begun to hold."""
        record = self.recorded(name)
        if record is None or not record.turns or (self.is_repeated(name) and not record.wrote):
            return ()
        if any(turn.fallback or turn.pass_number != 1 for turn in record.turns):
            return ()
        return record.exchanges if self._on_record(question) == record.asked else ()

    def _age_s(self, node: PlanNode, name: str) -> float | None:
        """How old an answer out of the cache may be; None where the node takes none."""
        if self._rounds and base_name(name) in self._rounds:
            return None
        age_s = math.inf if node.cache_s is None and self.cache else node.cache_s
        return age_s if age_s is not None and self.history is not None and node.cacheable else None

    def hear(self, name: str, question: Question) -> None:
        """The node *name* is about to put *question*."""
        self._asks[name] = question.fingerprint

    def _before(self, name: str, print_: str) -> NodeSettled | None:
        """The answer that this run got before: the node's own, or one of a node that asks something else by now."""
        if self.record is None:
            return None
        own = self.record.nodes.get(name)
        if own is not None and print_ in own.answers:
            return own.answers[print_]
        for other in self._owners().get(print_, ()):
            found = self.record.nodes[other].answers[print_]
            gone = base_name(other) not in self._known or self._asks.get(other, print_) != print_
            if gone and not found.kept and (other, print_) not in self._claimed:
                self._claimed.add((other, print_))
                return found
        return None

    def _owners(self) -> Mapping[str, list[str]]:
        """The nodes of the record by what was answered to them."""
        if self._owned is None:
            self._owned = {}
            for name, record in self.record.nodes.items() if self.record is not None else ():
                for print_ in record.answers:
                    self._owned.setdefault(print_, []).append(name)
        return self._owned

    def _borrow(self, name: str, print_: str) -> Verdict:
        found = None if self.history is None else self.history.answer(print_)
        if found is not None:
            return Verdict(_free(replace(found, kept=True)), f"not selected: taken from run {found.run}", print_)
        message = "it is not selected, and no recorded run asked the same"
        failure = Failure(ErrorKind.UPSTREAM, message, final=True)
        lost = NodeSettled("", 0.0, name, Status.FAILED, 0.0, 0, None, NO_USAGE, None, failure, None, {})
        return Verdict(lost, message)

    def _was_repeated(self, name: str, question: Question) -> bool:
        """Whether the same was asked again although it had been answered, and nobody knows what became of that."""
        record = self.recorded(name)
        if record is None or not record.in_doubt or question.fingerprint not in record.answers:
            return False
        return self._on_record(question) == record.asked

    def _on_record(self, question: Question) -> dict[str, Any]:
        """What would be on record of *question*, part by part."""
        plain: dict[str, Any] = json.loads(self.clean(question.text))
        return plain

    def _why_again(self, name: str, question: Question) -> str:
        record = self.recorded(name)
        if record is None:
            return "it had not begun"
        if record.answers:
            now, before = self._on_record(question), record.asked
            if not before:
                return "it asks something else"
            other = [part for part in {*now, *before} if now.get(part) != before.get(part)]
            return f"it asks something else: another {' and '.join(sorted(other))}" if other else "its answer is lost"
        if record.in_doubt:
            return "it was cut off in mid-call"
        ended = record.ended
        if ended is None:
            return "it had not begun" if record.out is None else "it had not ended"
        if ended.error is not None:
            return f"it had failed: {ended.error.kind}"
        return f"it was {ended.status.replace('_', ' ')}" + (f": {ended.reason}" if ended.reason else "")


def _around(name: str) -> list[str]:
    """The nodes that *name* is in: `audit[3]` and `audit[3].find` of `audit[3].find.first`."""
    steps = name.split(".")
    return [".".join(steps[:length]) for length in range(1, len(steps))]


def _free(found: NodeSettled) -> NodeSettled:
    """As an answer for which nobody is asked and nothing is paid in this run."""
    return replace(found, usage=NO_USAGE, attempts=0, waits={}, hedges=0)
