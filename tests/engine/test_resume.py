"""A run that goes on: what was answered is kept by its meaning, what joins saw holds, and nothing is called twice."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import linecache
import sys
import textwrap
import time
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from engine.recorder import Recorder

import agentdag
from agentdag import NodeSettled, Options, RunResult, RunStatus, Status, StoreError, UsageError
from agentdag.events import BarrierOpened, NodeResumed, NodeStarted
from agentdag.session import Session, aresume, keeper_of, run_loop, take_up
from agentdag.store.history import History
from agentdag.store.keeper import Keeper

FUNCTIONS = """
calls = []
failing = set()

def act(name, *given):
    calls.append(name)
    if name in failing:
        raise ValueError(f"{name} is broken")
    return f"{name} of {', '.join(map(str, given))}" if given else name

def a(**given): return act("a", *given.values())
def b(**given): return act("b", *given.values())
def c(**given): return act("c", *given.values())
def d(**given): return act("d", *given.values())

async def slow(**given):
    import asyncio
    calls.append("slow")
    await asyncio.sleep(3600 if "slow" in failing else 0)
    return "slow"
"""


class Bench:
    """A folder with a pipeline, the functions it calls, and a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / ".agentdag"
        self.name = f"functions_{uuid.uuid4().hex}"
        (folder / f"{self.name}.py").write_text(FUNCTIONS)
        self.recorder = Recorder()

    @property
    def module(self) -> object:
        return sys.modules[self.name]

    @property
    def calls(self) -> list[str]:
        calls: list[str] = self.module.calls  # type: ignore[attr-defined]
        made = sorted(calls)
        calls.clear()
        return made

    def failing(self, *names: str) -> None:
        failing: set[str] = self.module.failing  # type: ignore[attr-defined]
        failing.clear()
        failing.update(names)

    def write(self, text: str) -> None:
        (self.folder / "p.yaml").write_text(textwrap.dedent(text).replace("f:", f"{self.name}:"))

    def run(self, text: str, options: Options | None = None) -> RunResult:
        self.write(text)
        plan = agentdag.load(self.folder / "p.yaml")
        for node in plan.nodes:
            for choice in node.choices:
                if choice.model is None:
                    __import__(self.name)
        self.recorder = Recorder()
        return agentdag.run(plan, options=options, store=self.store, observers=(self.recorder,))

    def resume(self, run: str, text: str | None = None, **options: frozenset[str]) -> RunResult:
        if text is not None:
            self.write(text)
        self.recorder = Recorder()
        with closing(History(self.store)) as history:
            taken = take_up(history, run).options
        changed = Options(simulate=taken.simulate, time_scale=taken.time_scale, **options)  # type: ignore[arg-type]
        result = agentdag.resume(run, store=self.store, options=changed, observers=(self.recorder,))
        self.recorder.check(len(result.nodes))
        return result

    def why(self) -> dict[str, str]:
        """Why each node was kept or run."""
        return {event.node: event.why for event in self.recorder.of(NodeResumed)}

    def kept(self) -> set[str]:
        return {event.node for event in self.recorder.of(NodeSettled) if event.kept}

    def started(self) -> list[str]:
        return sorted(event.node for event in self.recorder.of(NodeStarted))

    def forget_after(self, run: str, kind: str, node: str | None = None) -> None:
        """As if the process had been killed just after this entry was written."""
        history = History(self.store)
        found = [each.seq for each in history.entries(run) if each.type == kind and each.node == node]
        history._connection.execute("DELETE FROM entries WHERE run = ? AND seq > ?", (run, found[-1]))
        history.close()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Bench(tmp_path)


DIAMOND = """
nodes:
  a: {call: "f:a"}
  b: {call: "f:b", with: {x: "{{ nodes.a.output }}"}}
  c: {call: "f:c", with: {x: "{{ nodes.a.output }}"}}
  d: {call: "f:d", with: {x: "{{ nodes.b.output }}", y: "{{ nodes.c.output }}"}}
"""


def test_a_failed_run_goes_on_with_what_failed_and_what_came_after(bench: Bench) -> None:
    bench.write(DIAMOND)
    __import__(bench.name)
    bench.failing("b")
    first = bench.run(DIAMOND)
    assert (first.status, bench.calls) == (RunStatus.FAILED, ["a", "b", "c"])
    bench.failing()
    second = bench.resume(first.run)
    assert second.status is RunStatus.SUCCEEDED
    assert second.run == first.run
    assert bench.calls == ["b", "d"]
    assert second.outputs == {"d": "d of b of a, c of a"}
    assert bench.why() == {
        "a": "the same request was answered before",
        "c": "the same request was answered before",
        "b": "it had failed: function",
        "d": "it was skipped: b failed",
    }
    assert second.nodes["a"].latency_s == first.nodes["a"].latency_s


def test_a_run_that_succeeded_has_nothing_left_to_do(bench: Bench) -> None:
    first = bench.run(DIAMOND)
    assert len(bench.calls) == 4
    again = bench.resume(first.run)
    assert (again.outputs, bench.calls, bench.started()) == (first.outputs, [], [])


@pytest.mark.parametrize(("kind", "node", "left"), [
    ("run.started", None, ["a", "b", "c", "d"]),
    ("node.settled", "a", ["b", "c", "d"]),
    ("node.settled", "d", []),
    ("run.finished", None, []),
])  # fmt: skip
def test_after_a_kill_only_what_was_not_committed_is_called(
    kind: str, node: str | None, left: list[str], bench: Bench
) -> None:
    text = DIAMOND.replace('"}', '", idempotent: true}')
    first = bench.run(text)
    bench.forget_after(first.run, kind, node)
    assert len(bench.calls) == 4
    assert bench.resume(first.run).outputs == first.outputs
    assert bench.calls == left


def test_an_edit_repeats_what_it_changes_and_what_reads_a_changed_answer(bench: Bench) -> None:
    first = bench.run(DIAMOND)
    bench.calls  # noqa: B018 - forgets them
    edited = DIAMOND.replace('b: {call: "f:b", with: {x: "{{ nodes.a.output }}"', 'b: {call: "f:b", with: {x: "new"')
    second = bench.resume(first.run, edited)
    assert bench.calls == ["b", "d"]
    assert second.outputs == {"d": "d of b of new, c of a"}
    assert bench.why()["b"] == "it asks something else: another arguments"


def test_an_edit_that_changes_no_answer_stops_there(bench: Bench) -> None:
    first = bench.run(DIAMOND)
    bench.calls  # noqa: B018
    (bench.folder / f"{bench.name}.py").write_text(
        FUNCTIONS.replace('def b(**given): return act("b"', 'def b(**given): return 1 and act("b"')
    )
    del sys.modules[bench.name]
    second = bench.resume(first.run)
    assert bench.calls == ["b"]
    assert second.outputs == first.outputs
    assert bench.why()["b"] == "it asks something else: another code"


def test_a_comment_in_a_function_changes_nothing(bench: Bench) -> None:
    first = bench.run(DIAMOND)
    (bench.folder / f"{bench.name}.py").write_text("# a comment\n" + FUNCTIONS + "\ndef other(): pass\n")
    del sys.modules[bench.name]
    bench.resume(first.run)
    assert bench.calls == []


def test_a_node_of_another_name_keeps_its_answer_and_twins_keep_their_own(bench: Bench) -> None:
    first = bench.run(DIAMOND)
    assert len(bench.calls) == 4
    second = bench.resume(first.run, DIAMOND.replace("  a:", "  first:").replace("nodes.a.", "nodes.first."))
    assert (bench.calls, second.outputs) == ([], first.outputs)
    twins = DIAMOND + '  twin: {call: "f:a"}\n'
    third = bench.resume(first.run, twins)
    assert bench.calls == ["a"]
    assert third.nodes["twin"].kept is False


def test_repeat_runs_a_node_whatever_is_there(bench: Bench) -> None:
    first = bench.run(DIAMOND)
    assert len(bench.calls) == 4
    bench.resume(first.run, repeat=frozenset({"c"}))
    assert bench.calls == ["c"], "its answer is the same, so nobody downstream is asked again"


def test_skip_goes_on_without_a_node(bench: Bench) -> None:
    text = """
        nodes:
          a: {call: "f:a"}
          d: {call: "f:d", needs: [a], with: {ok: "{{ needs.a.ok }}"}}
    """
    bench.write(text)
    __import__(bench.name)
    bench.failing("a")
    first = bench.run(text)
    assert bench.calls == ["a"]
    second = bench.resume(first.run, skip=frozenset({"a"}))
    assert (bench.calls, second.status) == (["d"], RunStatus.SUCCEEDED)
    assert second.outputs == {"d": "d of False"}
    assert second.nodes["a"].status is Status.SKIPPED


QUORUM = """
nodes:
  a: {call: "f:a"}
  b: {call: "f:b"}
  slow: {call: "f:slow", timeout: 1h}
  join: {needs: [a, b, slow], barrier: {wait_for: 2}, call: "f:c", with: {m: "{{ missing }}", s: "{{ needs.slow.status }}"}}
  last: {call: "f:d", with: {x: "{{ nodes.join.output }}"}}
"""


def test_what_a_join_saw_holds_and_late_stays_late(bench: Bench) -> None:
    bench.write(QUORUM)
    __import__(bench.name)
    bench.failing("slow", "d")
    first = bench.run(QUORUM)
    assert first.nodes["slow"].status is Status.LATE
    assert first.nodes["join"].output == "c of ['slow'], late"
    assert bench.calls == ["a", "b", "c", "d", "slow"]
    bench.failing()
    second = bench.resume(first.run)
    assert bench.calls == ["d"]
    assert second.nodes["slow"].status is Status.LATE
    assert (second.status, second.outputs) == (RunStatus.SUCCEEDED, {"last": "d of c of ['slow'], late"})
    (opened,) = [event for event in bench.recorder.of(BarrierOpened) if event.node == "join"]
    assert (opened.arrived, opened.late) == (("a", "b"), ("slow",))


@pytest.mark.parametrize("kind", ["barrier.opened", "node.started"])
def test_a_join_that_was_cut_off_sees_the_same_again(kind: str, bench: Bench) -> None:
    text = QUORUM.replace('"f:c"', '"f:c", idempotent: true')
    bench.write(text)
    __import__(bench.name)
    bench.failing("slow")
    first = bench.run(text)
    bench.forget_after(first.run, kind, "join")
    bench.failing()
    assert "slow" in bench.calls
    second = bench.resume(first.run)
    assert bench.calls == ["c", "d"], "whoever was late is not called again, though no end of it is on record"
    assert second.nodes["slow"].status is Status.LATE
    assert second.outputs == first.outputs


def test_who_was_missing_is_missing_again_though_another_has_it_run(bench: Bench) -> None:
    text = """
        nodes:
          a: {call: "f:a"}
          b: {call: "f:b", continue_on_failure: true}
          join: {needs: [a, b], call: "f:c", with: {m: "{{ missing }}", e: "{{ needs.b.error.message }}"}}
          last: {call: "f:d", with: {x: "{{ nodes.join.output }}"}}
    """
    bench.write(text)
    __import__(bench.name)
    bench.failing("b", "d")
    first = bench.run(text)
    bench.failing()
    assert bench.calls == ["a", "b", "c", "d"]
    bench.resume(first.run)
    assert bench.calls == ["d"], "the join went on without b: nobody reads it any more"
    other = text.rstrip() + '\n          more: {call: "f:a", with: {b: "{{ nodes.b.output }}"}}\n'
    third = bench.resume(first.run, other)
    assert bench.calls == ["a", "b"]
    assert third.nodes["more"].output == "a of b"
    assert third.nodes["join"].kept


def test_to_repeat_who_was_missing_lets_the_join_look_anew(bench: Bench) -> None:
    text = """
        nodes:
          a: {call: "f:a"}
          b: {call: "f:b", continue_on_failure: true}
          join: {needs: [a, b], call: "f:c", with: {m: "{{ missing }}"}}
    """
    bench.write(text)
    __import__(bench.name)
    bench.failing("b")
    first = bench.run(text)
    bench.failing()
    assert bench.calls == ["a", "b", "c"]
    second = bench.resume(first.run, repeat=frozenset({"b"}))
    assert bench.calls == ["b", "c"]
    assert second.outputs == {"join": "c of []"}


def test_what_kept_others_from_running_is_run_though_a_join_did_without_both(bench: Bench) -> None:
    text = """
        nodes:
          a: {call: "f:a"}
          b: {call: "f:b", with: {x: "{{ nodes.a.output }}"}}
          c: {call: "f:c"}
          join: {needs: [b, c], barrier: {wait_for: 1}, call: "f:d", with: {m: "{{ missing }}"}}
    """
    bench.write(text)
    __import__(bench.name)
    bench.failing("a")
    first = bench.run(text)
    assert first.status is RunStatus.FAILED
    bench.failing()
    assert bench.calls == ["a", "c", "d"]
    second = bench.resume(first.run)
    assert second.status is RunStatus.SUCCEEDED
    assert bench.calls == ["a", "b"]
    assert second.nodes["join"].output == first.nodes["join"].output


PASSES = """
nodes:
  a: {prompt: hi, model: simulated/m, expect: {latency: 1s}}
  b: {prompt: hi, model: simulated/m, expect: {latency: 250s}}
  c: {prompt: hi, model: simulated/m, expect: {latency: 500s}}
  join: {needs: [a, b, c], barrier: progressive, model: simulated/m, expect: {latency: 1s},
         prompt: "{{ needs | length }} {{ missing }} {{ pending }} {{ previous | default('', true) | length }}"}
  last: {prompt: "{{ nodes.join.output }}", model: simulated/m}
"""
REHEARSED = Options(simulate=True, time_scale=0.001)


def test_a_progressive_join_that_ended_is_kept(bench: Bench) -> None:
    first = bench.run(PASSES, REHEARSED)
    assert first.nodes["join"].passes == 3
    second = bench.resume(first.run)
    assert bench.started() == []
    assert second.outputs == first.outputs
    bench.forget_after(first.run, "node.settled", "join")
    assert bench.resume(first.run).outputs == first.outputs
    assert bench.started() == ["last"]


def test_a_progressive_join_goes_on_after_its_last_finished_pass(bench: Bench) -> None:
    first = bench.run(PASSES, REHEARSED)
    history = History(bench.store)
    ends = [entry for entry in history.entries(first.run, node="join") if entry.type == "pass.finished"]
    history._connection.execute("DELETE FROM entries WHERE seq > ?", (ends[1].seq,))
    history.close()
    second = bench.resume(first.run)
    assert bench.started().count("join") == 1
    assert second.nodes["join"].passes == 3
    assert second.outputs == first.outputs


def test_a_progressive_join_whose_last_pass_had_finished_is_not_asked_again(bench: Bench) -> None:
    first = bench.run(PASSES, REHEARSED)
    bench.forget_after(first.run, "pass.finished", "join")
    second = bench.resume(first.run)
    assert bench.started() == ["last"]
    assert second.outputs == first.outputs


def test_an_interrupted_run_goes_on(bench: Bench) -> None:
    bench.write(DIAMOND)
    plan = agentdag.load(bench.folder / "p.yaml")
    __import__(bench.name)
    session = Session(plan, keeper=keeper_of(plan, bench.store))

    def stop(event: object) -> None:
        if isinstance(event, NodeSettled) and event.node == "a":
            session.interrupt(2)

    session.observers.add(stop)
    first = run_loop(session.run())
    assert (first.exit_code, bench.calls) == (130, ["a"])
    second = bench.resume(first.run)
    assert (second.exit_code, bench.calls) == (0, ["b", "c", "d"])


def test_inputs_are_those_of_the_run_though_the_file_changed(bench: Bench) -> None:
    (bench.folder / "note.txt").write_text("first")
    text = (
        'inputs: {note: {type: file, default: note.txt}}\nnodes:\n  a: {call: "f:a", with: {n: "{{ inputs.note }}"}}\n'
    )
    first = bench.run(text)
    (bench.folder / "note.txt").write_text("second")
    second = bench.resume(first.run)
    assert second.outputs == first.outputs == {"a": "a of first"}
    assert bench.calls == ["a"]


def test_usage_of_all_lives_is_told(bench: Bench) -> None:
    text = """
        nodes:
          a: {prompt: hello there, model: simulated/m}
          b: {prompt: "{{ nodes.a.output }}", model: simulated/m, simulate: {fail: [refused]}}
    """
    first = bench.run(text, REHEARSED)
    assert first.status is RunStatus.FAILED
    second = bench.resume(first.run, text.replace(", simulate: {fail: [refused]}", ""))
    assert second.status is RunStatus.SUCCEEDED
    assert second.usage == first.usage + second.nodes["b"].usage


def test_a_second_process_is_refused_before_any_call(bench: Bench) -> None:
    first = bench.run(DIAMOND)
    bench.calls  # noqa: B018
    plan = agentdag.load(bench.folder / "p.yaml")
    history = History(bench.store)
    keeper = Keeper(history, "p.yaml", take_up(history, first.run).record)

    async def twice() -> None:
        session = Session(plan, keeper=keeper)
        raised: list[StoreError] = []

        async def other() -> None:
            try:
                await aresume(first.run, store=bench.store)
            except StoreError as error:
                raised.append(error)

        def meanwhile(event: object) -> None:
            if isinstance(event, NodeResumed) and event.node == "a":
                tasks.append(agentdag_task(other()))

        import asyncio

        tasks: list[asyncio.Task[None]] = []
        agentdag_task = asyncio.ensure_future
        session.observers.add(meanwhile)
        await session.run()
        await asyncio.gather(*tasks)
        assert ["is being run by process" in str(error) for error in raised] == [True]

    run_loop(twice())
    assert bench.calls == []


def test_select_reads_what_is_not_selected_from_the_last_run(bench: Bench) -> None:
    with pytest.raises(UsageError, match="no recorded run asked the same"):
        bench.run(DIAMOND, Options(select=("d",)))
    assert bench.calls == []
    whole = bench.run(DIAMOND)
    assert len(bench.calls) == 4
    part = bench.run(DIAMOND, Options(select=("d",)))
    assert (bench.calls, part.outputs) == (["d"], whole.outputs)
    assert bench.kept() == {"a", "b", "c"}
    assert bench.run(DIAMOND, Options(select=("+b",))).outputs == {"b": "b of a"}
    assert bench.calls == ["a", "b"]
    assert bench.run(DIAMOND, Options(select=("b+",))).outputs == whole.outputs
    assert bench.calls == ["b", "d"]
    with pytest.raises(UsageError, match="there is no node `e`"):
        bench.run(DIAMOND, Options(select=("e",)))


def test_the_cache_serves_the_same_request_once_paid_for(bench: Bench) -> None:
    text = """
        nodes:
          a: {prompt: hello, model: simulated/m, cache: true}
          b: {prompt: "{{ nodes.a.output }}", model: simulated/m}
    """
    first = bench.run(text, REHEARSED)
    assert not any(node.cached for node in first.nodes.values())
    second = bench.run(text, REHEARSED)
    assert [name for name, node in second.nodes.items() if node.cached] == ["a"]
    assert bench.started() == ["b"]
    assert second.nodes["a"].output == first.nodes["a"].output
    assert second.usage == second.nodes["b"].usage, "a hit costs nothing"
    third = bench.run(text, Options(simulate=True, time_scale=0.001, cache=True))
    assert (bench.started(), third.outputs) == ([], first.outputs)
    other = bench.run(text.replace("prompt: hello", "prompt: hello, max_tokens: 9"), REHEARSED)
    assert not other.nodes["a"].cached


def test_the_cache_forgets_by_age_and_never_holds_a_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'nodes:\n  a: {call: "f:a", cache: 1h}\n'
    bench.write(text)
    __import__(bench.name)
    bench.failing("a")
    bench.run(text)
    bench.failing()
    assert not bench.run(text).nodes["a"].cached
    assert bench.run(text).nodes["a"].cached
    history = History(bench.store)
    values = history._connection.execute("SELECT * FROM entries WHERE fingerprint IS NOT NULL").fetchall()
    history.close()
    assert values
    later = time.time() + 3601
    monkeypatch.setattr("agentdag.engine.reuse.time.time", lambda: later)
    assert not bench.run(text).nodes["a"].cached


def test_cache_for_all_leaves_out_what_is_of_one_run_alone(bench: Bench) -> None:
    text = 'nodes:\n  a: {prompt: "It is {{ run.id }}", model: simulated/m}\n  b: {prompt: hello, model: simulated/m}\n'
    options = Options(simulate=True, time_scale=0.001, cache=True)
    bench.run(text, options)
    bench.run(text, options)
    assert bench.started() == ["a"]


def test_history_times_out_what_takes_much_longer_than_ever(bench: Bench) -> None:
    text = 'nodes:\n  a: {call: "f:slow", timeout: auto, retry: 0}\n'
    for _ in range(20):
        bench.run(text)
    bench.failing("slow")
    result = bench.run(text)
    assert result.nodes["a"].status is Status.TIMED_OUT
    assert result.elapsed_s < 30


def test_recorded_latencies_order_what_is_ready(bench: Bench, compiled: Callable[..., object]) -> None:
    text = 'limits: {concurrency: 1}\nnodes:\n  a: {call: "f:a"}\n  b: {call: "f:b"}\n'
    first = bench.run(text)
    assert first.ok
    history = History(bench.store)
    history._connection.execute("UPDATE entries SET latency_s = 500.0 WHERE node = 'b' AND latency_s IS NOT NULL")
    history.close()
    bench.calls  # noqa: B018
    bench.run(text)
    order: list[str] = [event.node for event in bench.recorder.of(NodeStarted)]
    assert order == ["b", "a"]


def test_a_join_that_failed_and_that_another_went_on_without_stays_so(bench: Bench) -> None:
    text = """
        nodes:
          a: {call: "f:a"}
          b: {call: "f:b"}
          failed: {needs: [a, b], call: "f:c", continue_on_failure: true}
          join: {needs: [failed, b], call: "f:a", with: {m: "{{ missing }}"}}
          last: {call: "f:d", needs: [join]}
    """
    bench.write(text)
    __import__(bench.name)
    bench.failing("c", "d")
    first = bench.run(text)
    bench.failing()
    assert first.status is RunStatus.FAILED
    assert bench.calls == ["a", "a", "b", "c", "d"]
    second = bench.resume(first.run)
    assert bench.calls == ["d"]
    assert second.nodes["join"].kept
    assert second.nodes["failed"].status is Status.FAILED
    assert second.ok


def test_a_progressive_join_that_had_not_begun_begins(bench: Bench) -> None:
    text = PASSES.replace("  a: {", "  z: {prompt: hi, model: simulated/m}\n  a: {needs: [z], ").replace(
        "  b: {", "  b: {needs: [z], "
    )
    first = bench.run(text, REHEARSED)
    assert first.ok
    bench.forget_after(first.run, "node.settled", "z")
    assert bench.resume(first.run).outputs.keys() == first.outputs.keys()
    cached = text.replace("barrier: progressive", "barrier: progressive, cache: true")
    assert bench.run(cached, REHEARSED).ok


def test_a_skip_is_remembered(bench: Bench) -> None:
    text = """
        nodes:
          a: {call: "f:a", idempotent: true}
          b: {call: "f:b"}
          join: {needs: [a, b], call: "f:c", with: {m: "{{ missing }}"}}
          last: {call: "f:d", with: {x: "{{ nodes.join.output }}"}}
    """
    bench.write(text)
    __import__(bench.name)
    bench.failing("a", "d")
    first = bench.run(text)
    assert bench.calls == ["a", "b"]
    bench.failing("d")
    second = bench.resume(first.run, skip=frozenset({"a"}))
    assert (second.status, bench.calls) == (RunStatus.FAILED, ["c", "d"])
    bench.failing()
    third = bench.resume(first.run)
    assert (third.status, bench.calls) == (RunStatus.SUCCEEDED, ["d"])
    assert third.outputs == {"last": "d of c of ['a']"}
    assert third.nodes["a"].status is Status.SKIPPED
    again = bench.resume(first.run, skip=frozenset({"a", "join"}))
    assert (again.status, bench.calls) == (RunStatus.FAILED, []), "its reader has nothing to read"
    fourth = bench.resume(first.run, repeat=frozenset({"a", "join"}))
    assert (fourth.outputs, bench.calls) == ({"last": "d of c of []"}, ["a", "c", "d"])


def test_to_skip_a_need_of_a_progressive_join_ends(bench: Bench) -> None:
    first = bench.run(PASSES, REHEARSED)
    bench.forget_after(first.run, "barrier.opened", "join")
    second = bench.resume(first.run, skip=frozenset({"a"}))
    assert second.nodes["a"].status is Status.SKIPPED
    assert second.nodes["join"].status is Status.SUCCEEDED


def test_steps_that_move_keep_their_answers(bench: Bench) -> None:
    text = """
        nodes:
          a: {call: "f:a"}
          b: {call: "f:b"}
          c: {call: "f:c", needs: [a, b]}
    """
    first = bench.run(text)
    assert len(bench.calls) == 3
    moved = """
        nodes:
          a: {call: "f:d"}
          b: {call: "f:a"}
          c: {call: "f:b", needs: [a]}
          e: {call: "f:c", needs: [b, c]}
    """
    second = bench.resume(first.run, moved)
    assert bench.calls == ["d"]
    assert {name: node.output for name, node in second.nodes.items()} == {"a": "d", "b": "a", "c": "b", "e": "c"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def f(): return g()\ndef g(): return 1\n", "def f(): return g()\ndef g(): return 2\n"),
        ("f = lambda: 1\n", "f = lambda: 2\n"),
        ("from functools import partial\ndef g(x): return x\nf = partial(g, 1)\n", "from functools import partial\ndef g(x): return x\nf = partial(g, 2)\n"),
        ("def make(x):\n    return lambda: x\nf = make(1)\n", "def make(x):\n    return lambda: x\nf = make(2)\n"),
        ("class C:\n    def __init__(self, x): self.x = x\n    def __call__(self): return self.x\nf = C(1)\n", "class C:\n    def __init__(self, x): self.x = x\n    def __call__(self): return self.x\nf = C(2)\n"),
        ("try:\n    X = 1\nexcept ValueError:\n    X = 0\ndef f(): return X\n", "try:\n    X = 2\nexcept ValueError:\n    X = 0\ndef f(): return X\n"),
    ],
)  # fmt: skip
def test_a_function_is_known_by_all_that_it_reaches(before: str, after: str, bench: Bench) -> None:
    module = f"code_{uuid.uuid4().hex}_m"
    text = f'nodes:\n  a: {{call: "{module}:f"}}\n'
    (bench.folder / f"{module}.py").write_text(before)
    first = bench.run(text)
    assert first.outputs == {"a": 1}
    (bench.folder / f"{module}.py").write_text("# of no meaning\n" + after)
    del sys.modules[module]
    linecache.clearcache()
    assert bench.resume(first.run).outputs == {"a": 2}


@pytest.mark.parametrize(
    "how",
    [
        "from {0} import g\ndef f(): return g()\n",
        "def f():\n    from {0} import g\n    return g()\n",
        "import {0}\ndef f(): return {0}.g()\n",
    ],
)
def test_modules_beside_it_count_too(how: str, bench: Bench) -> None:
    module, other = f"code_{uuid.uuid4().hex}_m", f"other_{uuid.uuid4().hex}"
    (bench.folder / f"{module}.py").write_text(how.format(other))
    (bench.folder / f"{other}.py").write_text("def g(): return 1\n")
    first = bench.run(f'nodes:\n  a: {{call: "{module}:f"}}\n')
    assert first.outputs == {"a": 1}
    (bench.folder / f"{other}.py").write_text("def g(): return 2 + 0\n")
    for name in (module, other):
        sys.modules.pop(name, None)
    linecache.clearcache()
    importlib.invalidate_caches()
    __import__(other)
    assert bench.resume(first.run).outputs == {"a": 2}


def test_a_wall_clock_that_jumps_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real, jumps = time.time, itertools.cycle([3600.0, -86_400.0, 0.0])
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    bench.write(DIAMOND)
    __import__(bench.name)
    bench.failing("d")
    first = bench.run(DIAMOND)
    assert first.elapsed_s < 30
    assert all(0 <= node.latency_s < 30 for node in first.nodes.values())
    bench.failing()
    assert bench.calls == ["a", "b", "c", "d"]
    assert bench.resume(first.run).ok
    assert bench.calls == ["d"]


def standing(bench: Bench, run: str) -> dict[str, tuple[Status | None, bool]]:
    """How each node of *run* stands on record, and whether its end is in doubt."""
    with closing(History(bench.store)) as history:
        nodes = history.record(run).nodes
    return {name: (node.ended and node.ended.status, node.in_doubt) for name, node in nodes.items()}


def test_what_a_resume_keeps_is_on_record_as_it_stands(bench: Bench) -> None:
    first = bench.run(DIAMOND)
    bench.failing("b")
    second = bench.resume(first.run, repeat=frozenset({"b"}))
    assert (second.status, standing(bench, first.run)["d"][0]) == (RunStatus.FAILED, Status.SKIPPED)
    third = bench.resume(first.run)
    assert third.outputs == first.outputs
    assert standing(bench, first.run) == dict.fromkeys("abcd", (Status.SUCCEEDED, False))


def test_a_repeat_that_was_cut_off_is_repeated(bench: Bench) -> None:
    text = DIAMOND.replace('"}', '", idempotent: true}')
    first = bench.run(text)
    bench.resume(first.run, repeat=frozenset({"b"}))
    bench.forget_after(first.run, "node.started", "b")
    assert standing(bench, first.run)["b"] == (None, True)
    bench.calls  # noqa: B018
    assert bench.resume(first.run).outputs == first.outputs
    assert bench.calls == ["b"]
    assert bench.why()["b"] == "it was being repeated when the run was cut off"
    assert bench.resume(first.run).outputs == first.outputs
    assert bench.calls == []


def test_the_text_of_a_resumed_run_outlives_what_is_pruned(bench: Bench) -> None:
    other = bench.run(DIAMOND + 'outputs: {other: "{{ nodes.a.output }}"}\n')
    bench.failing("b")
    first = bench.run(DIAMOND)
    bench.resume(first.run, DIAMOND.replace("y:", "z:"))
    with closing(History(bench.store)) as history:
        history.remove([other.run])
    (bench.folder / "p.yaml").unlink()
    bench.failing()
    again = bench.resume(first.run)
    assert again.status is RunStatus.SUCCEEDED
    assert "z:" in take_up_text(bench, first.run)


def take_up_text(bench: Bench, run: str) -> str:
    with closing(History(bench.store)) as history:
        return history.record(run).text


def test_nothing_is_left_behind_by_a_run_that_is_cancelled(bench: Bench) -> None:
    chains = "".join(
        f"  n{chain}x{link}: {{call: 'f:a', needs: [{f'n{chain}x{link - 1}' if link else ''}]}}\n"
        for chain in range(5)
        for link in range(30)
    )
    bench.write("nodes:\n" + chains)
    plan = agentdag.load(bench.folder / "p.yaml")

    async def cancelled(at_s: float) -> int:
        with suppress(TimeoutError):
            await asyncio.wait_for(agentdag.arun(plan, store=bench.store), at_s)
        return len(asyncio.all_tasks()) - 1

    async def often() -> list[int]:
        return [await cancelled(0.02 + 0.005 * turn) for turn in range(8)]

    assert run_loop(often()) == [0] * 8


def test_who_came_after_all_is_seen_at_the_next_resume_too(bench: Bench) -> None:
    text = """
        inputs: {n: {default: "1"}}
        nodes:
          a: {call: "f:a", with: {n: "{{ inputs.n }}"}}
          b: {call: "f:b", with: {x: "{{ needs.a.output if needs.a.ok }}"}, needs: [a]}
    """
    first = bench.run(text)
    bench.resume(first.run, repeat=frozenset({"b"}), skip=frozenset({"a"}))
    bench.resume(first.run, repeat=frozenset({"a"}))
    bench.calls  # noqa: B018
    last = bench.resume(first.run)
    assert last.outputs == first.outputs
    assert bench.calls == []
    assert standing(bench, first.run) == dict.fromkeys("ab", (Status.SUCCEEDED, False))


def test_an_interrupt_while_the_end_of_a_join_is_written(bench: Bench) -> None:
    text = """
        defaults: {retry: 0}
        nodes:
          x: {call: "f:a", continue_on_failure: true}
          b: {call: "f:b"}
          j: {needs: [x, b], barrier: progressive, call: "f:c", with: {v: "{{ previous.no }}"}}
          z: {call: "f:d"}
    """
    bench.run("nodes: {a: {call: 'f:a'}}")
    bench.failing("a", "d")
    first = bench.run(text)
    assert first.status is RunStatus.FAILED
    with closing(History(bench.store)) as history:
        taken = take_up(history, first.run)
        session = Session(
            taken.plan, taken.inputs, options=taken.options, keeper=Keeper(history, "p.yaml", taken.record)
        )

        def stop(event: object) -> None:
            if isinstance(event, BarrierOpened):
                asyncio.get_running_loop().call_soon(session.interrupt, 2)

        session.observers.add(stop)
        result = run_loop(session.run())
    assert result.exit_code in {1, 130}
    assert set(result.nodes) == {"x", "b", "j", "z"}
