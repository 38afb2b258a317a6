"""Branches, fan-out and loops: `when`, `foreach`, `repeat`, alone and over pipelines."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine.recorder import Recorder
from virtual import simulated
from wire import Say, WireServer

import agentdag
from agentdag import ErrorKind, Options, RunResult, Status
from agentdag.events import BarrierOpened, NodeExpanded, NodeSettled, NodeStarted, PassFinished
from agentdag.plan.plan import Plan

Compile = Callable[[str], Plan]
FAST = Options(simulate=True, time_scale=0.001)

CHILD = """
inputs: {topic: {}, more: {type: integer, default: 1}}
defaults: {model: simulated/m}
nodes:
  find: {prompt: "find {{ inputs.topic }}"}
  write: {prompt: "write {{ nodes.find.output }} {{ inputs.more }}", simulate: {output: "wrote"}}
outputs: {text: "{{ nodes.write.output }}", topic: "{{ inputs.topic }}", more: "{{ inputs.more }}"}
"""


@pytest.fixture
def child(tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text(CHILD)


def run(plan: Compile, text: str, inputs: dict[str, Any] | None = None, *, seen: Recorder | None = None) -> RunResult:
    observers = () if seen is None else (seen,)
    whole = f"defaults: {{model: simulated/m}}\n{textwrap.dedent(text)}"
    return agentdag.run(plan(whole), inputs, options=FAST, observers=observers)


def functions(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / f"{name}.py").write_text(text)


# when


def test_only_the_branch_that_holds_runs_and_a_join_goes_on_with_it(plan: Compile) -> None:
    text = """
        nodes:
          triage: {prompt: hi, output: {fields: {label: legal | sales}}, simulate: {output: {label: sales}}}
          legal: {prompt: l, when: "{{ nodes.triage.output.label == 'legal' }}"}
          sales: {prompt: s, when: "{{ nodes.triage.output.label == 'sales' }}"}
          after_legal: {prompt: "{{ nodes.legal.output }}"}
          join: {call: "json:dumps", with: {obj: "{{ [needs.legal.ok, needs.sales.ok, missing] }}"}, needs: [legal, sales]}
    """
    seen = Recorder()
    result = run(plan, text, seen=seen)
    assert result.ok
    assert result.nodes["legal"].status is Status.SKIPPED
    assert result.nodes["legal"].reason == "`when` did not hold"
    assert result.nodes["after_legal"].status is Status.SKIPPED
    assert result.nodes["after_legal"].reason == "legal was skipped"
    assert result.nodes["join"].output == '[false, true, ["legal"]]'
    assert "legal" not in {event.node for event in seen.of(NodeStarted)}


def test_where_no_branch_holds_the_join_is_skipped_and_the_run_succeeds(plan: Compile) -> None:
    result = run(
        plan, "nodes: {a: {prompt: x, when: false}, b: {prompt: x, when: false}, c: {prompt: x, needs: [a, b]}}"
    )
    assert result.ok
    assert {node.status for node in result.nodes.values()} == {Status.SKIPPED}


@pytest.mark.parametrize(
    ("when", "words"), [("{{ inputs.n }}", "true or false is due"), ("{{ inputs.n.x.y > 1 }}", "x")]
)
def test_a_condition_that_cannot_be_told_fails_its_node(plan: Compile, when: str, words: str) -> None:
    text = f"inputs: {{n: {{type: object, default: {{a: 1}}}}}}\nnodes: {{a: {{prompt: x, when: {when!r}}}}}"
    error = run(plan, text).nodes["a"].error
    assert error is not None
    assert error.kind is ErrorKind.TEMPLATE
    assert words in error.message


# foreach


def test_results_stand_in_the_order_of_the_items(plan: Compile, tmp_path: Path) -> None:
    functions(tmp_path, "import time\ndef f(x, i):\n    time.sleep(0.02 * (3 - i))\n    return [x, i]\n", "fan_order")
    text = """
        nodes:
          a: {call: "fan_order:f", with: {x: "{{ word }}", i: "{{ index }}"}, foreach: {items: "{{ inputs.w }}", as: word}}
          b: {call: "json:dumps", with: {obj: "{{ nodes.a.output | length }}"}}
    """
    seen = Recorder()
    result = run(plan, "inputs: {w: {type: array, default: [p, q, r]}}\n" + textwrap.dedent(text), seen=seen)
    assert result.nodes["a"].output == [["p", 0], ["q", 1], ["r", 2]], result.nodes["a"].error
    assert result.nodes["a"].parts == 3
    assert result.nodes["b"].output == "3"
    assert [event.items for event in seen.of(NodeExpanded)] == [3]
    assert {event.node for event in seen.of(NodeStarted)} == {"a[0]", "a[1]", "a[2]", "b"}


def test_an_empty_list_is_done_and_a_quorum_above_the_length_fails(plan: Compile) -> None:
    assert run(plan, "nodes: {a: {prompt: x, foreach: []}}").nodes["a"].output == []
    error = (
        run(plan, "nodes: {a: {prompt: x, foreach: {items: '{{ [1, 2] }}', barrier: {wait_for: 3}}}}").nodes["a"].error
    )
    assert error is not None
    assert error.kind is ErrorKind.BARRIER


def test_what_is_no_list_fails_the_node(plan: Compile) -> None:
    error = (
        run(plan, "inputs: {x: {default: text}}\nnodes: {a: {prompt: x, foreach: '{{ inputs.x | upper }}'}}")
        .nodes["a"]
        .error
    )
    assert error is not None
    assert (error.kind, "a list is due" in error.message) == (ErrorKind.TEMPLATE, True)


FLAKY = "def f(x):\n    if x in (1, 3):\n        raise ValueError(f'no {x}')\n    return x\n"


def test_an_item_that_fails_stops_no_other_and_fails_the_node_at_its_end(plan: Compile, tmp_path: Path) -> None:
    functions(tmp_path, FLAKY, "fan_flaky")
    text = 'nodes: {a: {call: "fan_flaky:f", with: {x: "{{ item }}"}, foreach: [0, 1, 2, 3, 4]}, b: {prompt: x, needs: [a]}}'
    seen = Recorder()
    result = run(plan, text, seen=seen)
    error = result.nodes["a"].error
    assert error is not None
    assert error.message.startswith("2 of 5 items failed: a[1]: ValueError: no 1")
    assert error.kind is ErrorKind.FUNCTION
    settled = {event.node: event.status for event in seen.of(NodeSettled)}
    assert [settled[f"a[{index}]"] for index in range(5)].count(Status.SUCCEEDED) == 3
    assert result.nodes["b"].status is Status.SKIPPED


def test_null_stands_for_an_item_that_failed_where_the_file_says_so(plan: Compile, tmp_path: Path) -> None:
    functions(tmp_path, FLAKY, "fan_null")
    call = 'call: "fan_null:f", with: {x: "{{ item }}"}'
    result = run(
        plan,
        f"nodes: {{a: {{{call}, foreach: {{items: [0, 1, 2, 3], on_item_failure: null}}}}}}".replace(
            "null}", '"null"}'
        ),
    )
    assert result.nodes["a"].output == [0, None, 2, None]
    result = run(plan, f"nodes: {{a: {{{call}, foreach: {{items: [0, 1, 2], barrier: {{wait_for: 2}}}}}}}}")
    assert result.nodes["a"].output == [0, None, 2]


def test_a_quorum_of_items_leaves_the_late_ones_behind(plan: Compile, tmp_path: Path) -> None:
    functions(
        tmp_path,
        "import asyncio\nasync def f(x):\n    await asyncio.sleep(600 if x == 1 else 0)\n    return x\n",
        "fan_quorum",
    )
    text = 'nodes: {a: {call: "fan_quorum:f", with: {x: "{{ item }}"}, foreach: {items: [0, 1, 2], barrier: {wait_for: 2}}}}'
    seen = Recorder()
    result = run(plan, text, seen=seen)
    assert result.nodes["a"].output == [0, None, 2]
    assert {event.node: event.status for event in seen.of(NodeSettled)}["a[1]"] is Status.LATE
    (opened,) = seen.of(BarrierOpened)
    assert (opened.node, opened.late) == ("a[*]", ("a[1]",))


def test_time_decides_for_items_too(plan: Compile, tmp_path: Path) -> None:
    functions(tmp_path, "import asyncio\nasync def f(x):\n    await asyncio.sleep(x)\n    return x\n", "fan_time")
    call = 'call: "fan_time:f", with: {x: "{{ item }}"}'
    text = f"nodes: {{a: {{{call}, foreach: {{items: [0, 600], barrier: {{timeout: 50ms}}}}}}}}"
    result = agentdag.run(plan(text))
    assert result.nodes["a"].output == [0, None]


def test_no_more_are_under_way_than_the_file_allows(plan: Compile, tmp_path: Path) -> None:
    functions(
        tmp_path,
        "import threading, time\nlock, now, most = threading.Lock(), 0, 0\n"
        "def f(x):\n    global now, most\n    with lock:\n        now += 1; most = max(most, now)\n"
        "    time.sleep(0.01)\n    with lock:\n        now -= 1\n    return most\n",
        "fan_cap",
    )
    call = 'call: "fan_cap:f", with: {x: "{{ item }}"}'
    result = run(plan, f"nodes: {{a: {{{call}, foreach: {{items: '{{{{ range(20) | list }}}}', concurrency: 3}}}}}}")
    assert max(result.nodes["a"].output) == 3
    assert threading.active_count() < 20


def test_a_prompt_for_each_item_is_asked_for_real(plan: Compile, wire: WireServer) -> None:
    wire.script["m"] = lambda body: Say(f"<{body['messages'][-1]['content']}>")
    text = f"""
        providers: {{openai: {{base_url: "{wire.openai_url}"}}}}
        nodes: {{a: {{prompt: "say {{{{ item.n }}}}", model: openai/m, foreach: [{{n: 1}}, {{n: 2}}]}}}}
    """
    result = agentdag.run(plan(text))
    assert result.outputs["a"] == ["<say 1>", "<say 2>"]
    assert result.usage.input_tokens == 80
    assert result.nodes["a"].usage.input_tokens == 80


def test_the_budget_ends_a_fan_and_a_resume_goes_on_from_there(tmp_path: Path, wire: WireServer) -> None:
    (tmp_path / "p.yaml").write_text(
        f"""
        providers: {{openai: {{base_url: "{wire.openai_url}"}}}}
        budget: {{tokens: 400}}
        limits: {{concurrency: 1}}
        nodes: {{a: {{prompt: "say {{{{ item }}}}", model: openai/m, max_tokens: 10, foreach: [1, 2, 3, 4, 5, 6, 7, 8]}}}}
        """
    )
    loaded = agentdag.load(tmp_path / "p.yaml")
    result = agentdag.run(loaded, store=tmp_path / "store")
    assert result.exit_code == 3
    assert result.nodes["a"].status is Status.SKIPPED
    made = len(wire.calls)
    assert 0 < made < 8
    again = agentdag.resume(result.run, store=tmp_path / "store", options=Options(budget={"tokens": "none"}))
    assert again.ok
    assert again.nodes["a"].output is not None
    assert len(again.nodes["a"].output) == 8
    assert len(wire.calls) == 8, "nothing is asked twice"


# repeat


def test_it_goes_round_until_the_condition_holds(plan: Compile, tmp_path: Path) -> None:
    functions(tmp_path, "def f(before):\n    return {'score': (before or {'score': 0})['score'] + 3}\n", "loop_score")
    node = 'call: "loop_score:f", with: {before: "{{ previous }}"}, repeat: {until: "{{ output.score >= 8 }}", max: %d}'
    seen = Recorder()
    result = run(plan, f"nodes: {{a: {{{node % 5}}}}}", seen=seen)
    assert result.nodes["a"].output == {"score": 9}
    assert result.nodes["a"].passes == 3
    assert [event.output for event in seen.of(PassFinished)] == [{"score": 3}, {"score": 6}]
    result = run(plan, f"nodes: {{a: {{{node % 2}}}}}")
    assert result.nodes["a"].output == {"score": 6}
    assert result.nodes["a"].reason == "`until` did not hold in 2 passes"
    assert result.ok


def test_a_node_takes_as_long_as_all_of_its_passes(plan: Compile) -> None:
    text = """
        defaults: {model: simulated/m}
        nodes:
          a: {prompt: x, repeat: {until: "{{ false }}", max: 4}, expect: {latency: 5s}}
          b: {prompt: "{{ nodes.a.output }}", expect: {latency: 1s}}
    """
    result = simulated(plan(textwrap.dedent(text)))
    assert result.elapsed_s == pytest.approx(21, rel=0.02)
    assert result.critical_path_s == pytest.approx(21, rel=0.02)
    assert result.sequential_s == pytest.approx(21, rel=0.02)


def test_a_pass_that_fails_fails_the_node(plan: Compile, tmp_path: Path) -> None:
    functions(
        tmp_path, "def f(before):\n    if before:\n        raise ValueError('second')\n    return 1\n", "loop_fails"
    )
    node = 'call: "loop_fails:f", with: {before: "{{ previous }}"}, repeat: {until: "{{ false }}"}'
    node = run(plan, f"nodes: {{a: {{{node}}}}}").nodes["a"]  # type: ignore[assignment]
    assert node.status is Status.FAILED  # type: ignore[attr-defined]
    result = run(plan, 'nodes: {a: {prompt: x, repeat: {until: "{{ output.score > 1 }}"}, output: json}}')
    error = result.nodes["a"].error
    assert error is not None
    assert error.message.startswith("until: ")


def test_each_item_goes_round_by_itself(plan: Compile, tmp_path: Path) -> None:
    functions(tmp_path, "def f(x, before):\n    return (before or x) * 2\n", "loop_items")
    node = 'call: "loop_items:f", with: {x: "{{ item }}", before: "{{ previous }}"}'
    result = run(plan, f"nodes: {{a: {{{node}, foreach: [1, 5], repeat: {{until: '{{{{ output > 15 }}}}'}}}}}}")
    assert result.nodes["a"].output == [16, 20], result.nodes["a"].error


# pipelines


@pytest.mark.usefixtures("child")
def test_a_pipeline_runs_as_one_node(plan: Compile) -> None:
    text = """
        nodes:
          first: {prompt: hi, simulate: {output: pumps}}
          sub: {pipeline: child.yaml, with: {topic: "{{ nodes.first.output }}", more: 7}}
          last: {call: "json:dumps", with: {obj: "{{ nodes.sub.output.more }}"}}
    """
    seen = Recorder()
    result = run(plan, text, seen=seen)
    assert result.nodes["sub"].output == {"text": "wrote", "topic": "pumps", "more": 7}, result.nodes["sub"].error
    assert result.nodes["last"].output == "7"
    assert result.nodes["sub.find"].status is Status.SUCCEEDED
    assert result.nodes["sub"].usage.output_tokens == 400
    assert result.usage.output_tokens == 600
    waves = {event.node: event.wave for event in seen.of(NodeStarted)}
    assert (waves["sub.find"], waves["sub.write"]) == (1, 2)


@pytest.mark.usefixtures("child")
def test_a_pipeline_for_each_item_and_round_after_round(plan: Compile) -> None:
    text = """
        nodes:
          subs: {pipeline: child.yaml, with: {topic: "{{ t }}"}, foreach: {items: [a, b], as: t}}
          loop:
            pipeline: child.yaml
            with: {topic: "{{ previous.topic if previous else 'x' }}!"}
            repeat: {until: "{{ output.topic | length > 3 }}", max: 9}
    """
    result = run(plan, text)
    assert [each["topic"] for each in result.nodes["subs"].output] == ["a", "b"]
    assert result.nodes["loop"].output["topic"] == "x!!!"
    assert result.nodes["loop"].passes == 3


def test_pipelines_within_pipelines_with_fans(plan: Compile, tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(
        'inputs: {n: {type: integer}}\nnodes: {d: {call: "json:dumps", with: {obj: "{{ item }}"}, '
        'foreach: "{{ range(inputs.n) | list }}"}}\noutputs: {all: "{{ nodes.d.output }}"}'
    )
    (tmp_path / "middle.yaml").write_text(
        'inputs: {n: {type: integer}}\nnodes: {i: {pipeline: inner.yaml, with: {n: "{{ inputs.n + item }}"}, foreach: [0, 1]}}\n'
        'outputs: {all: "{{ nodes.i.output }}"}'
    )
    seen = Recorder()
    result = run(plan, 'nodes: {m: {pipeline: middle.yaml, with: {n: "{{ item }}"}, foreach: [1, 2]}}', seen=seen)
    got = [[inner["all"] for inner in each["all"]] for each in result.nodes["m"].output]
    assert got == [[["0"], ["0", "1"]], [["0", "1"], ["0", "1", "2"]]]
    assert "m[1].i[1].d[2]" in {event.node for event in seen.of(NodeSettled)}


def test_a_failure_in_a_pipeline_is_that_of_its_node(plan: Compile, tmp_path: Path) -> None:
    functions(tmp_path, "def f():\n    raise ValueError('boom')\n", "sub_fails")
    (tmp_path / "bad.yaml").write_text('nodes: {x: {call: "sub_fails:f"}, y: {call: "json:dumps", with: {obj: 1}}}')
    text = 'nodes: {s: {pipeline: bad.yaml, continue_on_failure: true}, t: {call: "json:dumps", with: {obj: 2}, needs: [s]}}'
    result = run(plan, text)
    assert result.ok
    error = result.nodes["s"].error
    assert error is not None
    assert error.message.startswith("x failed: ValueError: boom")
    assert result.nodes["s.y"].status is Status.SUCCEEDED
    assert result.nodes["t"].status is Status.SUCCEEDED
    result = run(plan, "nodes: {s: {pipeline: bad.yaml, fallback: [{prompt: instead}]}}")
    assert result.nodes["s"].fallback == 1
    assert result.ok


def test_a_pipeline_is_bounded_as_a_whole(plan: Compile, tmp_path: Path) -> None:
    functions(tmp_path, "import asyncio\nasync def f():\n    await asyncio.sleep(600)\n", "sub_slow")
    (tmp_path / "slow.yaml").write_text(
        'nodes: {x: {call: "sub_slow:f"}, y: {prompt: hi, model: simulated/m, needs: [x]}}'
    )
    result = agentdag.run(plan("nodes: {s: {pipeline: slow.yaml, timeout: 100ms}}"))
    assert result.nodes["s"].status is Status.TIMED_OUT
    assert result.nodes["s.x"].status is Status.LATE
    assert result.nodes["s.y"].status is Status.SKIPPED


@pytest.mark.usefixtures("child")
@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("with: {topc: x}", "has no input `topc`"),
        ("with: {more: 2}", "needs the input `topic`"),
        ("with: {topic: x}, hedge: {after: 1s}", "`hedge` means nothing for a node that runs a pipeline"),
    ],
)
def test_what_does_not_fit_a_pipeline_is_told_before_the_run(tmp_path: Path, node: str, words: str) -> None:
    (tmp_path / "p.yaml").write_text(f"nodes: {{s: {{pipeline: child.yaml, {node}}}}}")
    with pytest.raises(agentdag.SpecError) as raised:
        agentdag.load(tmp_path / "p.yaml")
    assert any(words in finding.message for finding in raised.value.findings)


@pytest.mark.usefixtures("child")
def test_an_input_of_the_wrong_type_fails_the_node(plan: Compile) -> None:
    text = 'inputs: {x: {default: a}}\nnodes: {s: {pipeline: child.yaml, with: {topic: a, more: "{{ inputs.x }}"}}}'
    error = run(plan, text).nodes["s"].error
    assert error is not None
    assert "more" in error.message


# save


def test_outputs_are_saved_whole_and_below_the_folder(plan: Compile, tmp_path: Path) -> None:
    text = """
        inputs: {to: {default: out/deep}}
        nodes:
          a: {call: "textwrap:dedent", with: {text: "Grüße"}, save: "{{ inputs.to }}/memo.md"}
          b: {call: "builtins:dict", with: {n: 1}, save: "out/{{ index }}.json", foreach: [1, 2]}
    """

    def saved(to: str = "out/deep") -> agentdag.NodeSettled:
        return agentdag.run(plan(text), {"to": to}).nodes["a"]

    assert saved().error is None
    assert (tmp_path / "out/deep/memo.md").read_text("utf-8") == "Grüße"
    assert (tmp_path / "out/1.json").read_text() == '{\n  "n": 1\n}\n'
    assert not list(tmp_path.rglob("*.part"))
    error = saved("../..").error
    assert error is not None
    assert error.kind is ErrorKind.SAVE
    (tmp_path / "file").write_text("x")
    error = saved("file").error
    assert error is not None
    assert error.kind is ErrorKind.SAVE


def test_a_rehearsal_writes_no_files(plan: Compile, tmp_path: Path) -> None:
    assert run(plan, "nodes: {a: {prompt: hi, save: memo.md}}").ok
    assert not (tmp_path / "memo.md").exists()
