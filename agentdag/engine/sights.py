"""What joins see of their needs, kept for their templates, and told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agentdag.engine.run import Run, Sight
from agentdag.events import BarrierOpened, NodeSettled
from agentdag.plan.news import Opened


def sighted(run: Run, seen: Opened, *, frozen: bool) -> BarrierOpened:
    """Keep what a join sees; *frozen* says whether it saw that in an earlier life of the run too."""

    def names(numbers: Iterable[int]) -> tuple[str, ...]:
        return tuple([run.plan.nodes[number].id for number in numbers])

    join, arrived = run.plan.nodes[seen.node].id, names(seen.arrived)
    missing, late, pending = names(seen.missing), names(seen.late), names(seen.pending)
    then = _missed_before(run, join) if frozen and missing else {}
    if late or pending or then:
        run.sights[join] = Sight(missing, frozenset(late), pending, then)
    elif run.sights:
        run.sights.pop(join, None)
    return BarrierOpened(run.id, run.now(), join, seen.reason, arrived, missing, late, pending, seen.number)


def _missed_before(run: Run, join: str) -> Mapping[str, NodeSettled]:
    """How those had ended that *join* went on without in an earlier life of the run."""
    before = None if run.reuse is None else run.reuse.recorded(join)
    return {} if before is None else before.missed
