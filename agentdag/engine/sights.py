"""What joins see of their needs, kept for their templates, and told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agentdag.engine.scope import Scope, Sight
from agentdag.events import BarrierOpened, NodeSettled
from agentdag.plan.news import Opened


def sighted(scope: Scope, seen: Opened, *, frozen: bool) -> BarrierOpened:
    """Keep what a join sees; *frozen* says whether it saw that in an earlier life of the run too."""
    run, nodes, prefix = scope.run, scope.plan.nodes, scope.prefix

    def whole(numbers: Iterable[int]) -> tuple[str, ...]:
        return tuple([prefix + nodes[number].id for number in numbers])

    join = nodes[seen.node].id
    arrived, missing, late, pending = map(whole, (seen.arrived, seen.missing, seen.late, seen.pending))
    then = _missed_before(scope, join) if frozen and missing else {}
    if late or pending or then:
        ids = scope.ids
        scope.sights[join] = Sight(tuple(ids(missing)), frozenset(ids(late)), tuple(ids(pending)), then)
    elif scope.sights:
        scope.sights.pop(join, None)
    return BarrierOpened(run.id, run.now(), prefix + join, seen.reason, arrived, missing, late, pending, seen.number)


def _missed_before(scope: Scope, join: str) -> Mapping[str, NodeSettled]:
    """How those had ended that *join* went on without in an earlier life of the run."""
    before = None if scope.run.reuse is None else scope.run.reuse.recorded(scope.prefix + join)
    return {} if before is None else {name.removeprefix(scope.prefix): end for name, end in before.missed.items()}
