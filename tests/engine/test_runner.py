"""Whole runs through the engine, with functions and the simulator as agents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from engine.recorder import Recorder
from virtual import run_virtually

import agentdag
from agentdag import ErrorKind, Event, NodeSettled, NodeStarted, Options, RunStatus, Status
from agentdag.events import BarrierOpened, NodeRetrying, RunProgress
from agentdag.plan.plan import Plan
from agentdag.session import BatchResult, BatchSession, BatchSpec, Session

Compile = Callable[[str], Plan]
INSTANT = Options(simulate=True, time_scale=0.0001)


def module(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / f"{name}.py").write_text(text)


def test_outputs_are_rendered_and_values_stay_values(plan: Compile, tmp_path: Path) -> None:
    module(tmp_path, "fns1", "async def make(n): return {'rows': [n, n + 1]}\ndef add(rows): return sum(rows)\n")
    result = agentdag.run(
        plan("""
            inputs: {n: {type: integer}}
            nodes:
              make: {call: "fns1:make", with: {n: "{{ inputs.n }}"}}
              add: {call: "fns1:add", with: {rows: "{{ nodes.make.output.rows }}"}}
            outputs: {sum: "{{ nodes.add.output }}", text: "= {{ nodes.add.output }}", all: {deep: ["{{ nodes.make.output }}"]}}
        """),
        {"n": 3},
    )
    assert result.outputs == {"sum": 7, "text": "= 7", "all": {"deep": [{"rows": [3, 4]}]}}
    assert result.ok


def test_without_outputs_the_nodes_that_nobody_needs_are_given(plan: Compile) -> None:
    found = plan('nodes: {a: {prompt: hi, model: openai/m}, b: {prompt: "{{ nodes.a.output }}", model: openai/m}}')
    assert list(agentdag.run(found, options=INSTANT).outputs) == ["b"]


FAILING = """
    defaults: {{model: openai/m, retry: 0}}
    nodes:
      bad: {{prompt: hi, simulate: {{fail: [server]}}{bad}}}
      after: {{prompt: "{{{{ nodes.bad.output | default('none') }}}}"}}
      last: {{prompt: "{{{{ nodes.after.output }}}}"}}
      aside: {{prompt: hi, expect: {{latency: 2s}}}}
"""


def test_a_required_failure_skips_what_needs_it_and_nothing_else(plan: Compile) -> None:
    seen = Recorder()
    result = agentdag.run(plan(FAILING.format(bad="")), options=INSTANT, observers=(seen,))
    seen.check(4)
    assert result.status is RunStatus.FAILED
    assert result.exit_code == 1
    assert {name: node.status.value for name, node in result.nodes.items()} == {
        "bad": "failed", "after": "skipped", "last": "skipped", "aside": "succeeded",
    }  # fmt: skip
    assert result.nodes["after"].reason == "bad failed"
    assert result.nodes["last"].reason == "bad failed"
    assert result.outputs == {"last": None, "aside": result.outputs["aside"]}


def test_an_optional_failure_lets_the_run_succeed(plan: Compile) -> None:
    result = agentdag.run(plan(FAILING.format(bad=", continue_on_failure: true")), options=INSTANT)
    assert result.status is RunStatus.SUCCEEDED
    assert result.nodes["bad"].status is Status.FAILED
    assert result.nodes["last"].status is Status.SUCCEEDED


def test_a_join_sees_what_is_missing(plan: Compile, tmp_path: Path) -> None:
    module(tmp_path, "fns2", "def seen(missing, ok, error): return [missing, ok, error]\n")
    seen = Recorder()
    result = agentdag.run(
        plan("""
            defaults: {model: openai/m, retry: 0}
            nodes:
              a: {prompt: hi}
              b: {prompt: hi, continue_on_failure: true, simulate: {fail: [refused]}}
              join:
                call: fns2:seen
                needs: [a, b]
                with:
                  missing: "{{ missing }}"
                  ok: "{{ needs.a.ok and not needs.b.ok }}"
                  error: "{{ nodes.b.error.kind }}"
        """),
        options=INSTANT,
        observers=(seen,),
    )
    assert result.outputs["join"] == [["b"], True, "refused"]
    (barrier,) = seen.of(BarrierOpened)
    assert (barrier.node, barrier.reason, barrier.arrived, barrier.missing) == ("join", "all", ("a",), ("b",))


def test_a_template_that_only_data_breaks_fails_that_node_alone(plan: Compile) -> None:
    seen = Recorder()
    result = agentdag.run(
        plan("""
            defaults: {model: openai/m}
            nodes:
              a: {prompt: hi}
              b: {prompt: "{{ nodes.a.output[7000].x }}"}
              c: {prompt: hi}
        """),
        options=INSTANT,
        observers=(seen,),
    )
    seen.check(3)
    error = result.nodes["b"].error
    assert error is not None
    assert error.kind is ErrorKind.TEMPLATE
    assert result.nodes["c"].status is Status.SUCCEEDED
    assert not [event for event in seen.of(NodeStarted) if event.node == "b"], "no call was made for it"


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise ValueError('no good')", "ValueError: no good (crash_"),
        ("raise SystemExit(3)", "SystemExit"),
        ("raise StopIteration", "StopIteration"),
        ("raise TimeoutError('own')", "TimeoutError: own"),
        ("return object()", "JSON"),
        ("x = []; x.append(x); return x", "JSON"),
    ],
)
def test_whatever_a_function_does_is_its_own_failure(
    plan: Compile, tmp_path: Path, kind: str, body: str, words: str
) -> None:
    name = f"crash_{kind}_{abs(hash(body))}"
    module(tmp_path, name, f"{'async ' if kind == 'async' else ''}def f():\n    {body}\n")
    text = f"nodes: {{f: {{call: '{name}:f'}}, other: {{call: 'json:dumps', with: {{obj: 1}}}}}}"
    result = agentdag.run(plan(text))
    error = result.nodes["f"].error
    assert error is not None
    assert error.kind is ErrorKind.FUNCTION
    assert words in error.message
    assert result.nodes["other"].status is Status.SUCCEEDED


def test_a_function_is_retried_only_where_the_file_says_so(plan: Compile, tmp_path: Path) -> None:
    text = "calls = []\ndef f():\n    calls.append(1)\n    if len(calls) < 3: raise ValueError\n    return len(calls)\n"
    module(tmp_path, "again1", text)
    module(tmp_path, "again2", text)
    found = plan("""
        nodes:
          once: {call: "again1:f", retry: {retries: 5, delay: 1ms}}
          often: {call: "again2:f", retry: {retries: 5, delay: 1ms, on: [function]}}
    """)
    result = agentdag.run(found)
    assert (result.nodes["once"].attempts, result.nodes["once"].status) == (1, Status.FAILED)
    assert (result.nodes["often"].attempts, result.outputs["often"]) == (3, 3)


def test_a_hanging_function_times_out_and_holds_up_nobody(plan: Compile, tmp_path: Path) -> None:
    module(tmp_path, "hang1", "import threading\nevent = threading.Event()\ndef f(): event.wait()\n")
    found = plan(
        "limits: {concurrency: 1}\nnodes: {f: {call: 'hang1:f', timeout: 50ms, retry: 0}, g: {call: 'json:dumps', with: {obj: 1}}}"
    )
    result = agentdag.run(found)
    assert result.nodes["f"].status is Status.TIMED_OUT
    assert result.nodes["g"].status is Status.SUCCEEDED
    import hang1  # type: ignore[import-not-found]

    hang1.event.set()


def test_functions_that_cannot_be_called_are_told_before_the_run(plan: Compile, tmp_path: Path) -> None:
    module(tmp_path, "badimport", "def f(): pass\nraise RuntimeError('at import')\n")
    module(tmp_path, "badargs", "def wrap(g): return g\n@wrap\ndef f(a, b=1): pass\n")
    with pytest.raises(agentdag.UsageError, match="RuntimeError: at import"):
        agentdag.run(plan("nodes: {n: {call: 'badimport:f'}}"))
    with pytest.raises(agentdag.UsageError, match=r"missing a required argument: 'a'.*\(a, b=1\)"):
        agentdag.run(plan("nodes: {n: {call: 'badargs:f', with: {b: 2}}}"))


def test_two_pipelines_may_each_have_a_module_of_the_same_name(tmp_path: Path) -> None:
    outputs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        module(tmp_path / name, "samename", f"def f(): return {name!r}\n")
        (tmp_path / name / "p.yaml").write_text("nodes: {n: {call: 'samename:f'}}")
        outputs.append(agentdag.run(agentdag.load(tmp_path / name / "p.yaml")).outputs["n"])
    assert outputs == ["one", "two"]


def test_the_cap_is_exact_and_the_longest_path_goes_first(plan: Compile, tmp_path: Path) -> None:
    module(
        tmp_path,
        "peak",
        "now = top = 0\nimport asyncio\nasync def f():\n    global now, top\n    now += 1; top = max(top, now)\n    await asyncio.sleep(0.001); now -= 1\n",
    )
    nodes = "\n".join(f"  n{i}: {{call: 'peak:f', expect: {{latency: {i + 1}s}}}}" for i in range(40))
    seen = Recorder()
    assert agentdag.run(plan(f"limits: {{concurrency: 3}}\nnodes:\n{nodes}\n"), observers=(seen,)).ok
    import peak  # type: ignore[import-not-found]

    assert peak.top == 3
    assert [event.node for event in seen.of(NodeStarted)] == [f"n{i}" for i in reversed(range(40))]


def test_priority_goes_before_length(plan: Compile) -> None:
    seen = Recorder()
    agentdag.run(
        plan("""
            limits: {concurrency: 1}
            defaults: {model: openai/m}
            nodes:
              long: {prompt: hi, expect: {latency: 9s}}
              low: {prompt: hi, priority: low, expect: {latency: 99s}}
              high: {prompt: hi, priority: high, expect: {latency: 1s}}
        """),
        options=INSTANT,
        observers=(seen,),
    )
    assert [event.node for event in seen.of(NodeStarted)] == ["high", "long", "low"]


def test_waves_wait_for_their_slowest(plan: Compile) -> None:
    text = """
        schedule: waves
        defaults: {model: openai/m}
        nodes:
          quick: {prompt: hi, expect: {latency: 1s}}
          slow: {prompt: hi, expect: {latency: 30s}}
          after: {prompt: "{{ nodes.quick.output }}", expect: {latency: 1s}}
    """
    seen = Recorder()
    agentdag.run(plan(text), options=Options(simulate=True, time_scale=0.002), observers=(seen,))
    order = [(event.type, event.node) for event in seen.events if isinstance(event, (NodeStarted, NodeSettled))]
    assert order.index(("node.settled", "slow")) < order.index(("node.started", "after"))
    eager = Recorder()
    agentdag.run(plan(text), options=Options(simulate=True, time_scale=0.002, schedule="eager"), observers=(eager,))
    order = [(event.type, event.node) for event in eager.events if isinstance(event, (NodeStarted, NodeSettled))]
    assert order.index(("node.settled", "slow")) > order.index(("node.settled", "after"))


def test_fail_fast_launches_nothing_more_and_keeps_what_runs(plan: Compile) -> None:
    result = agentdag.run(
        plan("""
            limits: {fail_fast: true, concurrency: 2}
            defaults: {model: openai/m, retry: 0}
            nodes:
              bad: {prompt: hi, priority: high, simulate: {fail: [server]}, expect: {latency: 5s}}
              running: {prompt: hi, priority: high, expect: {latency: 60s}}
              waiting: {prompt: hi}
              later: {prompt: "{{ nodes.running.output }}"}
        """),
        options=Options(simulate=True, time_scale=0.001),
    )
    assert {name: node.status.value for name, node in result.nodes.items()} == {
        "bad": "failed", "running": "succeeded", "waiting": "skipped", "later": "skipped",
    }  # fmt: skip
    assert result.nodes["waiting"].reason == "fail_fast: bad failed"


def test_the_runs_timeout_cuts_what_is_in_flight(plan: Compile) -> None:
    seen = Recorder()
    result = agentdag.run(
        plan("""
            limits: {timeout: 100ms}
            defaults: {model: openai/m}
            nodes:
              done: {prompt: hi, expect: {latency: 1ms}}
              cut: {prompt: hi, expect: {latency: 1h}}
              never: {prompt: "{{ nodes.cut.output }}"}
        """),
        options=Options(simulate=True),
        observers=(seen,),
    )
    seen.check(3)
    assert result.status is RunStatus.FAILED
    assert [result.nodes[name].status.value for name in ("done", "cut", "never")] == [
        "succeeded",
        "cancelled",
        "skipped",
    ]
    assert "timeout" in str(result.nodes["cut"].reason)


HANGING = """
    limits: {{concurrency: {cap}}}
    defaults: {{model: openai/m}}
    nodes:
      done: {{prompt: hi, expect: {{latency: 1ms}}}}
      slow: {{prompt: "{{{{ nodes.done.output }}}}", expect: {{latency: {slow}}}}}
      retrying: {{prompt: "{{{{ nodes.done.output }}}}", retry: {{delay: 1h, max_delay: 2h}}, simulate: {{fail: [server]}}, expect: {{latency: 1ms}}}}
      never: {{prompt: "{{{{ nodes.slow.output }}}}"}}
"""


def interrupted(plan: Plan, times: int) -> tuple[agentdag.RunResult, Recorder]:
    """A run that gets *times* interrupts as soon as one node waits for a retry and another is at work."""
    seen = Recorder()

    async def main() -> agentdag.RunResult:
        def watch(event: Event) -> None:
            if isinstance(event, NodeRetrying):
                loop = asyncio.get_running_loop()
                for _ in range(times):
                    loop.call_soon(session.interrupt, 2)

        session = Session(plan, options=Options(simulate=True), observers=(seen, watch))
        return await session.run()

    return asyncio.run(main()), seen


def test_the_first_interrupt_lets_what_is_in_flight_finish(plan: Compile) -> None:
    result, seen = interrupted(plan(HANGING.format(cap=4, slow="300ms")), times=1)
    seen.check(4)
    assert (result.status, result.exit_code) == (RunStatus.INTERRUPTED, 130)
    assert {name: node.status.value for name, node in result.nodes.items()} == {
        "done": "succeeded", "slow": "succeeded", "retrying": "cancelled", "never": "skipped",
    }  # fmt: skip
    assert result.nodes["never"].reason == "interrupted"


LAST = "last: {prompt: hi, expect: {latency: 10s}}"
BROKEN = "fails: {{prompt: hi, retry: 0, simulate: {{fail: [auth]}}, {more}, expect: {{latency: 1s}}}}"


def stopped_at(asked: Plan, at_s: float | None) -> agentdag.RunResult:
    """The run of *asked* in virtual time, interrupted after so many seconds, if at all."""

    async def run() -> agentdag.RunResult:
        session = Session(asked)
        if at_s is not None:
            asyncio.get_running_loop().call_later(at_s, session.interrupt, 2)
        return await session.run()

    return run_virtually(run())


@pytest.mark.parametrize(
    ("nodes", "code"),
    [
        ([LAST], 0),
        ([BROKEN.format(more="continue_on_failure: true"), LAST], 0),
        ([BROKEN.format(more="continue_on_failure: false"), LAST], 1),
    ],
)
def test_an_interrupt_that_cuts_nothing_short_changes_nothing(plan: Compile, nodes: list[str], code: int) -> None:
    asked = plan("defaults: {model: simulated/m}\nnodes:\n  " + "\n  ".join(nodes))
    alone, stopped = stopped_at(asked, None), stopped_at(asked, 5.0)
    assert (stopped.status, stopped.exit_code) == (alone.status, alone.exit_code)
    assert stopped.exit_code == code


def test_an_interrupt_that_costs_a_join_its_retry_has_cut_it_short(plan: Compile) -> None:
    asked = plan("""
        defaults: {model: simulated/m}
        nodes:
          a: {prompt: hi, expect: {latency: 10s}}
          b: {prompt: hi, expect: {latency: 30s}}
          join: {needs: [a, b], prompt: hi, barrier: progressive, retry: 3, expect: {latency: 5s}, simulate: {fail: [server]}}
    """)
    assert stopped_at(asked, None).exit_code == 0
    assert stopped_at(asked, 32.0).exit_code == 130


@pytest.mark.parametrize("at_s", [None, 5.0])
def test_results_that_could_not_be_written_are_told_although_it_was_stopped(
    plan: Compile, tmp_path: Path, at_s: float | None
) -> None:
    asked = plan(
        "defaults: {model: simulated/m}\ninputs: {x: {}}\nnodes:\n  last: {prompt: '{{ inputs.x }}', expect: {latency: 10s}}"
    )
    (tmp_path / "rows.jsonl").write_text('{"x": "1"}')

    def full(_line: str) -> None:
        raise OSError(28, "No space left on device")

    async def run() -> BatchResult:
        batch = BatchSession(
            asked, BatchSpec(rows=tmp_path / "rows.jsonl"), options=Options(), keeper=None, print_line=full
        )
        if at_s is not None:
            asyncio.get_running_loop().call_later(at_s, batch.interrupt, 2)
        return await batch.run()

    result = run_virtually(run())
    assert (result.exit_code, result.reason) == (1, "the results could not be written: No space left on device")


def test_the_second_interrupt_cuts_at_once(plan: Compile) -> None:
    result, seen = interrupted(plan(HANGING.format(cap=4, slow="1h")), times=2)
    seen.check(4)
    assert result.nodes["slow"].status is Status.CANCELLED
    assert result.elapsed_s < 60
    assert result.nodes["done"].output is not None, "what is finished is kept"


def test_after_an_interrupt_nothing_is_tried_again(plan: Compile) -> None:
    text = """
        defaults: {model: openai/m}
        nodes:
          first: {prompt: hi, retry: {delay: 1h, max_delay: 2h}, simulate: {fail: [server]}, expect: {latency: 1ms}}
          failing: {prompt: hi, retry: 5, simulate: {fail: [server, server, server]}, expect: {latency: 200ms}}
    """
    result, _ = interrupted(plan(text), times=1)
    assert (result.nodes["failing"].status, result.nodes["failing"].attempts) == (Status.FAILED, 1)


def test_an_observer_that_raises_is_dropped_and_hurts_nobody(plan: Compile) -> None:
    seen = Recorder()

    def broken(event: Event) -> None:
        raise RuntimeError("a view's bug")

    found = plan("nodes: {a: {prompt: hi, model: openai/m}}")
    session = Session(found, options=INSTANT, observers=(broken, seen))
    assert asyncio.run(session.run()).ok
    seen.check(1)
    assert len(session.observers.dropped) == 1


def test_a_bug_in_the_engine_is_one_nodes_failure(plan: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentdag.agents.llm import ModelAgent

    async def buggy(self: ModelAgent, task: object) -> None:
        raise KeyError("a bug of ours")

    monkeypatch.setattr(ModelAgent, "perform", buggy)
    result = agentdag.run(
        plan("nodes: {a: {prompt: hi, model: openai/m}, b: {call: 'json:dumps', with: {obj: 1}}}"), options=INSTANT
    )
    error = result.nodes["a"].error
    assert error is not None
    assert error.kind is ErrorKind.INTERNAL
    assert result.nodes["b"].status is Status.SUCCEEDED


def test_a_function_that_cancels_itself_is_a_failure_and_not_the_end(plan: Compile, tmp_path: Path) -> None:
    module(tmp_path, "selfcancel", "import asyncio\nasync def f(): raise asyncio.CancelledError\n")
    result = agentdag.run(plan("nodes: {f: {call: 'selfcancel:f'}, g: {call: 'json:dumps', with: {obj: 1}}}"))
    error = result.nodes["f"].error
    assert error is not None
    assert error.kind is ErrorKind.INTERNAL
    assert result.nodes["g"].status is Status.SUCCEEDED


def test_who_has_a_slot_at_once_has_not_waited(plan: Compile) -> None:
    seen = Recorder()
    asked = plan("defaults: {model: simulated/m}\nnodes: {a: {prompt: hi}, b: {prompt: hi}, c: {prompt: hi}}")
    run_virtually(Session(asked, observers=(seen,)).run())
    assert seen.events[-1].most_queued == 0  # type: ignore[union-attr]


def test_an_interrupt_before_the_run_is_not_lost(plan: Compile) -> None:
    session = Session(
        plan("nodes: {a: {prompt: hi, model: openai/m}, b: {prompt: '{{ nodes.a.output }}', model: openai/m}}"),
        options=INSTANT,
    )
    session.interrupt(2)
    result = asyncio.run(session.run())
    assert result.exit_code == 130
    assert result.nodes["b"].status is Status.SKIPPED


def test_two_interrupts_before_the_run_end_it_and_do_not_hang(plan: Compile) -> None:
    """A task that is cancelled before its first step never runs: its node must settle all the same."""
    session = Session(
        plan("nodes: {a: {prompt: hi, model: openai/m, expect: {latency: 1h}}}"), options=Options(simulate=True)
    )
    session.interrupt(2)
    session.interrupt(2)
    result = asyncio.run(asyncio.wait_for(session.run(), 20))
    assert result.nodes["a"].status is Status.CANCELLED
    assert result.exit_code == 130


def test_cancelling_the_caller_while_nodes_queue_is_silent(plan: Compile, caplog: pytest.LogCaptureFixture) -> None:
    nodes = "\n".join(f"  n{i}: {{prompt: hi, expect: {{latency: 1h}}}}" for i in range(20))
    found = plan(f"limits: {{concurrency: 2}}\ndefaults: {{model: openai/m}}\nnodes:\n{nodes}\n")

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(agentdag.arun(found, options=Options(simulate=True)), 0.05)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    assert not caplog.records


def test_what_one_function_does_to_a_value_no_other_sees(plan: Compile, tmp_path: Path) -> None:
    module(
        tmp_path,
        "mutate1",
        "def make(): return {'rows': [1, 2]}\ndef clear(d): d['rows'].clear(); return 0\ndef size(d, after): return len(d['rows'])\n",
    )
    found = plan("""
        nodes:
          make: {call: mutate1:make}
          clear: {call: mutate1:clear, with: {d: "{{ nodes.make.output }}"}}
          size: {call: mutate1:size, with: {d: "{{ nodes.make.output }}", after: "{{ nodes.clear.output }}"}}
    """)
    result = agentdag.run(found)
    assert result.outputs["size"] == 2
    assert result.nodes["make"].output == {"rows": [1, 2]}


@pytest.mark.parametrize(
    "body",
    [
        "import asyncio\n    raise asyncio.CancelledError",
        "raise KeyboardInterrupt",
        "return (i for i in range(3))",
        "return 10**5000",
        "return float('inf')",
    ],
)
def test_odd_endings_and_odd_values_of_a_thread_are_told(plan: Compile, tmp_path: Path, body: str) -> None:
    name = f"odd{abs(hash(body))}"
    module(tmp_path, name, f"def f():\n    {body}\n")
    result = agentdag.run(plan(f"nodes: {{f: {{call: '{name}:f'}}}}"))
    error = result.nodes["f"].error
    assert error is not None
    assert error.kind is ErrorKind.FUNCTION


def test_callables_of_any_make_are_called(plan: Compile, tmp_path: Path) -> None:
    module(tmp_path, "partial1", "from functools import partial\nadd = partial(lambda a, b: a + b, 2)\n")
    assert agentdag.run(plan("nodes: {f: {call: 'partial1:add', with: {b: 3}}}")).outputs["f"] == 5


def test_a_module_that_ends_the_program_is_told_before_the_run(plan: Compile, tmp_path: Path) -> None:
    module(tmp_path, "exits1", "import sys\nsys.exit(0)\ndef f(): pass\n")
    with pytest.raises(agentdag.UsageError, match="SystemExit"):
        agentdag.run(plan("nodes: {f: {call: 'exits1:f'}}"))


def test_a_timed_out_function_is_not_started_again_by_itself(plan: Compile, tmp_path: Path) -> None:
    module(tmp_path, "hang2", "import threading\nevent = threading.Event()\ndef f(): event.wait()\n")
    result = agentdag.run(plan("nodes: {f: {call: 'hang2:f', timeout: 30ms, retry: 3}}"))
    assert (result.nodes["f"].status, result.nodes["f"].attempts) == (Status.TIMED_OUT, 1)
    import hang2  # type: ignore[import-not-found]

    hang2.event.set()


def test_cancelling_the_caller_leaves_nothing_running(plan: Compile, tmp_path: Path) -> None:
    module(
        tmp_path,
        "cancel1",
        "import asyncio\nstarted = asyncio.Event()\nended = []\nasync def f():\n    started.set()\n    try: await asyncio.sleep(3600)\n    finally: ended.append(1)\n",
    )
    found = plan("nodes: {f: {call: 'cancel1:f'}}")

    async def main() -> None:
        task = asyncio.create_task(agentdag.arun(found))
        await asyncio.sleep(0)  # the session is made, and with it the module imported
        import cancel1  # type: ignore[import-not-found]

        await cancel1.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cancel1.ended == [1]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_the_simulator_is_the_same_for_the_same_seed(plan: Compile) -> None:
    nodes = "\n".join(f"  n{i}: {{prompt: hi, simulate: {{fail: 0.5, jitter: 1.0}}, retry: 0}}" for i in range(40))
    found = plan(f"defaults: {{model: simulated/x}}\nnodes:\n{nodes}\n")

    def statuses(seed: int) -> list[Status]:
        result = agentdag.run(found, options=Options(simulate=True, time_scale=0.0001, seed=seed))
        return [result.nodes[f"n{i}"].status for i in range(40)]

    assert statuses(1) == statuses(1)
    assert statuses(1) != statuses(2)
    assert 5 < statuses(1).count(Status.FAILED) < 35


def test_the_simulator_plays_what_the_file_says(plan: Compile, tmp_path: Path) -> None:
    module(tmp_path, "never1", "def f(): raise AssertionError('called')\ndef g(): return 'really called'\n")
    found = plan("""
        defaults: {model: simulated/x}
        nodes:
          fixed: {prompt: hi, simulate: {output: {a: [1]}}, expect: {tokens: 77}}
          stand_in: {call: "never1:f", simulate: {output: {rows: 3}}}
          real: {call: "never1:g"}
          retried: {prompt: hi, simulate: {fail: [rate_limit, server]}, retry: {delay: 1ms}}
    """)
    result = agentdag.run(found, options=Options(simulate=True, time_scale=0.001))
    assert result.outputs["fixed"] == '{"a": [1]}'
    assert result.nodes["fixed"].usage.output_tokens == 77
    assert result.outputs["stand_in"] == {"rows": 3}
    assert result.outputs["real"] == "really called"
    assert result.nodes["retried"].attempts == 3


def test_ten_thousand_nodes_are_ordinary(plan: Compile, tmp_path: Path) -> None:
    module(tmp_path, "count1", "async def f(n): return n + 1\n")
    nodes = "\n".join(
        f'  n{i}: {{call: "count1:f", with: {{n: "{{{{ nodes.n{i - 1}.output }}}}"}}}}'
        if i % 100
        else f'  n{i}: {{call: "count1:f", with: {{n: {i}}}}}'
        for i in range(10_000)
    )
    found = plan(f"limits: {{concurrency: 100}}\nnodes:\n{nodes}\n")
    seen = Recorder()
    result = agentdag.run(found, observers=(seen,))
    seen.check(10_000)
    assert result.ok
    assert result.outputs["n9999"] == 9900 + 100


def test_progress_is_told_once_a_second_at_most(plan: Compile) -> None:
    seen = Recorder()
    found = plan("nodes: {a: {prompt: hi, model: openai/m, expect: {latency: 2200ms}}}")
    agentdag.run(found, options=Options(simulate=True, stream=True), observers=(seen,))
    assert [round(event.at) for event in seen.of(RunProgress)] == [1, 2]
    assert seen.of(RunProgress)[0].in_flight == 1
    progress = seen.of(agentdag.NodeProgress)
    assert 3 <= len(progress) <= 13
    assert all(event.ttft_s < 1 for event in progress)
    tokens = [event.output_tokens for event in progress]
    assert tokens == sorted(tokens)


def test_run_refuses_to_be_called_from_async_code(plan: Compile) -> None:
    found = plan("nodes: {a: {prompt: hi, model: openai/m}}")

    async def main() -> None:
        with pytest.raises(agentdag.UsageError, match="arun"):
            agentdag.run(found, options=INSTANT)

    asyncio.run(main())
