"""Every `foreach` at work: its items as they come, what they come to, and who takes them one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentdag.engine.fan import Fan
from agentdag.engine.ground import Ground, Limit
from agentdag.engine.items import Coming, Items, Listed
from agentdag.engine.scope import Instance
from agentdag.events import ALL_ITEMS, FAILURES, BarrierOpened, NodeExpanded, NodeSettled, Status
from agentdag.language.scalars import describe
from agentdag.language.templates import TemplateError
from agentdag.plan.work import Foreach


class Fans:
    """Of each at most *window* instances are under way at once."""

    def __init__(self, ground: Ground, window: int) -> None:
        self._ground = ground
        self._window = window
        self._fans: dict[Instance, Fan] = {}
        self._feeding: dict[Instance, Fan] = {}
        """Those from which others take the items one by one, until their end is on record."""
        self._limits: dict[Instance, Limit] = {}
        """When a node is to be over with all of its items, where its file says so."""

    def __contains__(self, instance: Instance) -> bool:
        return instance in self._fans

    def __iter__(self) -> Iterator[Instance]:
        """Those at work."""
        return iter(self._fans)

    def __bool__(self) -> bool:
        return bool(self._fans)

    def open(self, whole: Instance) -> None:
        """*whole* begins; raises TemplateError where its items cannot be told."""
        run, rule = self._ground.run, whole.node.foreach
        assert rule is not None
        items = self._items(whole, rule)
        run.tell(NodeExpanded(run.id, run.now(), whole.name, whole.wave, len(items)))
        run.governor.retries.grow(len(items))
        fan = self._fans[whole] = Fan(whole, rule, items, self._window, run.now())
        fan.leave_out(self._left_out_before(whole))
        if (total_s := whole.node.policy.timeout.total_s) is not None:
            self._limits[whole] = Limit(run.now() + total_s, total_s)
        self._ground.stirred[whole] = None
        if whole.number in whole.scope.shape.feeds:
            self._feeding[whole] = fan
            self._ground.host.flow(whole)

    def _items(self, whole: Instance, rule: Foreach) -> Items:
        scope = whole.scope
        feeder = scope.shape.streams.get(whole.number)
        feeding = None if feeder is None else self._feeding.get(scope[feeder])
        if feeder is None or feeding is None:
            values = rule.items.evaluate(whole.names())
            if not isinstance(values, list):
                raise TemplateError(f"foreach: this gives {describe(values)}, and a list is due")
            return Listed(values)
        items = Coming(len(feeding.items))
        for index, value in feeding.given():
            items.add(index, value, 0.0)
        scope.spent_s[feeder, whole.number] = 0.0
        return items

    def _followers(self, whole: Instance) -> Iterator[tuple[Fan, Coming]]:
        """Those at work that take the items of *whole* one by one."""
        for number in whole.scope.shape.feeds.get(whole.number, ()):
            fan = self._fans.get(whole.scope[number])
            if fan is not None and isinstance(fan.items, Coming) and not fan.items.is_complete:
                yield fan, fan.items

    def ended(self, whole: Instance, settled: NodeSettled) -> None:
        """The end of the node *whole* with a `foreach` is on record."""
        if self._feeding.pop(whole, None) is None:
            return
        for fan, items in self._followers(whole):
            if settled.status is Status.SUCCEEDED:
                items.complete(settled.output)
            else:
                why = f"{whole.name} failed" if settled.status in FAILURES else settled.reason or settled.status.value
                fan.stop(Status.SKIPPED, why)
                for instance in fan.waiting:
                    self._ground.host.cut(instance, Status.LATE, why)
            self._ground.stirred[fan.whole] = None

    def _left_out_before(self, whole: Instance) -> frozenset[int]:
        """Of a node that had ended with what its barrier gave it: the items without which it had gone on."""
        reuse = self._ground.run.reuse
        before = None if reuse is None else reuse.recorded(whole.name)
        saw = None if reuse is None else reuse.recorded(whole.name + ALL_ITEMS)
        if before is None or before.ended is None or before.ended.status is not Status.SUCCEEDED:
            return frozenset()
        if saw is None or saw.opened is None:
            return frozenset()
        names = (name.rpartition("[")[2].rstrip("]") for name in saw.opened.missing)
        return frozenset(int(index) for index in names if index.isdigit())

    def launched(self, instance: Instance) -> None:
        """*instance* of a `foreach` begins."""
        self._fans[instance.scope[instance.number]].launched(instance, self._ground.run.now())

    def is_live(self, instance: Instance) -> bool:
        """Whether *instance* of a `foreach` is still to run."""
        fan = self._fans.get(instance.scope[instance.number])
        return fan is not None and instance.index in fan.live and not fan.is_closed

    def settled(self, instance: Instance, settled: NodeSettled, path_s: float) -> None:
        """*instance* of a `foreach` has ended; it took *path_s* with a slot for each of its parts."""
        whole = instance.scope[instance.number]
        fan = self._fans[whole]
        since_s = fan.settle(instance, settled, path_s=path_s)
        self._ground.stirred[whole] = None
        if since_s is not None and whole in self._feeding and not fan.is_doomed:
            assert instance.index is not None
            for follower, items in self._followers(whole):
                items.add(instance.index, settled.output, since_s)
                self._ground.stirred[follower.whole] = None

    def go_on(self, whole: Instance) -> None:
        """Follow up what has happened to *whole*."""
        fan = self._fans[whole]
        now = self._ground.run.now()
        late = fan.consider(now)
        if late is not None and fan.reason is not None and (not fan.rule.barrier.plain or fan.lacks):
            self._tell_sight(fan)
        for instance in late or ():
            self._ground.host.cut(instance, Status.LATE, f"{whole.name} went on without it")
        due = list(fan.due(now))
        if due:
            self._ground.host.arrive(due)
        if fan.take_stir():
            self._ground.stirred[whole] = None
        if fan.is_over and whole in self._fans:
            del self._fans[whole]
            self._limits.pop(whole, None)
            self._ground.paths_s[whole] = fan.path_s
            self._ground.end(whole, fan.verdict(), now - fan.began_s, fan.usage, len(fan.items))

    def _tell_sight(self, fan: Fan) -> None:
        """What of its items the node has, kept for a run that goes on."""
        run, name = self._ground.run, fan.whole.name
        assert fan.reason is not None
        arrived, missing, late = (
            tuple(f"{name}[{index}]" for index in indices) for indices in (fan.arrived, fan.missing, fan.late)
        )
        run.tell(BarrierOpened(run.id, run.now(), name + ALL_ITEMS, fan.reason, arrived, missing, late))

    def stop(self, whole: Instance, status: Status, why: str) -> Sequence[Instance]:
        """*whole* is to end so; returns those of its instances that are under way."""
        fan = self._fans[whole]
        fan.stop(status, why)
        self._ground.stirred[whole] = None
        return list(fan.live.values())

    @property
    def failed(self) -> list[Instance]:
        """Those of which so many items have failed that they will."""
        return [whole for whole, fan in self._fans.items() if fan.has_failed]

    @property
    def wakes_s(self) -> list[float]:
        """When `tick` is due."""
        ends = [until for fan in self._fans.values() if (until := fan.until_s()) is not None]
        return ends + [limit.at_s for limit in self._limits.values()]

    def tick(self, now: float) -> None:
        """Time has passed."""
        for whole, fan in self._fans.items():
            until = fan.until_s()
            if until is not None and until <= now:
                self._ground.stirred[whole] = None
        for whole, limit in list(self._limits.items()):
            if limit.at_s <= now:
                del self._limits[whole]
                self._ground.host.cut(whole, Status.TIMED_OUT, f"no end within {limit.after_s:g} s")
