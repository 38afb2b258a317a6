"""An observer for tests: keeps every event, and checks what holds for all runs."""

from __future__ import annotations

from typing import Any

from agentdag import Event, NodeSettled, RunFinished, RunStarted


class Recorder:
    """Keeps every event, and checks what holds for all runs."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def check(self, nodes: int) -> None:
        assert isinstance(self.events[0], RunStarted)
        assert isinstance(self.events[-1], RunFinished)
        settled = [event.node for event in self.of(NodeSettled)]
        assert len(settled) == len(set(settled)) == nodes
        times = [event.at for event in self.events]
        assert times == sorted(times)
        assert sum(self.events[-1].nodes.values()) == nodes
