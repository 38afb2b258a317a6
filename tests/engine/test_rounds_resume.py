"""Runs with fans, loops and pipelines that go on after they were cut off: nothing that was answered is asked again."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from program import agentdag as program
from program import kill, started
from wire import Say, WireServer

import agentdag
from agentdag import Status

CHILD = """
inputs: {topic: {}}
nodes:
  find: {prompt: "find {{ inputs.topic }}", model: openai/find}
  write: {prompt: "write {{ nodes.find.output }}", model: openai/write}
outputs: {text: "{{ nodes.write.output }}"}
"""


LOOP = 'prompt: "again {{ previous or 0 }}", model: openai/write, output: json, repeat: {until: "{{ output.n >= 4 }}"}'
PIPELINE_LOOP = (
    "pipeline: child.yaml, with: {topic: \"{{ previous.text if previous else 'x' }}\"}, "
    "repeat: {until: \"{{ '6' in output.text }}\"}"
)


@pytest.mark.parametrize(
    ("node", "calls"),
    [
        ('prompt: "say {{ item }}", model: openai/write, foreach: [a, b, c, d]', 4),
        ('pipeline: child.yaml, with: {topic: "{{ item }}"}, foreach: [a, b, c]', 6),
        (LOOP, 4),
        (PIPELINE_LOOP, 6),
    ],
    ids=["fan", "fan of pipelines", "loop", "loop of a pipeline"],
)
def test_what_was_answered_before_a_kill_is_not_asked_again(
    tmp_path: Path, wire: WireServer, node: str, calls: int
) -> None:
    (tmp_path / "child.yaml").write_text(CHILD)
    (tmp_path / "p.yaml").write_text(
        f"""
providers: {{openai: {{base_url: "{wire.openai_url}"}}}}
limits: {{concurrency: 1}}
nodes:
  a: {{{node}}}
outputs: {{a: "{{{{ nodes.a.output }}}}"}}
"""
    )
    made = 0

    def answer(body: dict[str, object]) -> Say | str:
        nonlocal made
        if made == calls // 2 and stalls:
            return "stall"
        made += 1
        return Say(f'{{"n": {made}}}')

    stalls = True
    wire.script = {"find": answer, "write": answer}
    process = started("run", "p.yaml", cwd=tmp_path)
    wire.await_calls(calls // 2 + 1)
    kill(process)
    stalls = False
    done = program("resume", "last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    asked = len(wire.calls)
    assert calls + 1 <= asked <= calls + 2, (
        "the one that was out is asked again, and one whose answer was being written"
    )
    assert program("resume", "last", cwd=tmp_path).returncode == 0
    assert len(wire.calls) == asked


def test_what_a_fan_went_on_without_stays_missing(tmp_path: Path) -> None:
    (tmp_path / "fan_resumed.py").write_text(
        "import asyncio, pathlib\n"
        "async def f(x):\n"
        "    with open('calls', 'a') as file:\n        file.write(f'{x} ')\n"
        "    await asyncio.sleep(600 if x == 1 and not pathlib.Path('go').exists() else 0)\n"
        "    return x\n"
        "async def g(x):\n"
        "    if not pathlib.Path('go').exists():\n        raise ValueError('not yet')\n"
        "    return x\n"
    )
    (tmp_path / "p.yaml").write_text(
        "nodes:\n"
        '  a: {call: "fan_resumed:f", with: {x: "{{ item }}"}, foreach: {items: [0, 1, 2], barrier: {wait_for: 2}}}\n'
        '  b: {call: "fan_resumed:g", with: {x: "{{ nodes.a.output }}"}}\n'
    )
    done = program("run", "p.yaml", "--format", "json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert sorted((tmp_path / "calls").read_text().split()) == ["0", "1", "2"]
    (tmp_path / "go").touch()
    done = program("resume", "last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "null" in done.stdout
    assert sorted((tmp_path / "calls").read_text().split()) == ["0", "1", "2"]


def test_a_doubtful_instance_is_asked_about_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        'nodes: {a: {command: [sh, -c, "echo $0 >> ran; test -e go || sleep 600", "{{ item }}"], foreach: [x, y]}}'
    )
    process = started("run", "p.yaml", cwd=tmp_path)
    until = time.monotonic() + 30
    while not (tmp_path / "ran").exists() or len((tmp_path / "ran").read_text().split()) < 2:
        assert time.monotonic() < until
    kill(process)
    (tmp_path / "go").touch()
    done = program("resume", "last", cwd=tmp_path)
    assert done.returncode == 2
    assert "a[0]" in done.stderr
    done = program("resume", "last", "--repeat", "a[0]", "--skip", "a[1]", cwd=tmp_path)
    assert sorted((tmp_path / "ran").read_text().split()) == ["x", "x", "y"], done.stderr


def test_an_answer_that_could_not_be_saved_is_not_asked_for_again(tmp_path: Path, wire: WireServer) -> None:
    (tmp_path / "p.yaml").write_text(
        f'providers: {{openai: {{base_url: "{wire.openai_url}"}}}}\n'
        "nodes: {a: {prompt: hi, model: openai/m, save: out/memo.md}}\n"
    )
    (tmp_path / "out").write_text("in the way")
    assert program("run", "p.yaml", cwd=tmp_path).returncode == 1
    (tmp_path / "out").unlink()
    done = program("resume", "last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(wire.calls) == 1
    assert (tmp_path / "out/memo.md").read_text("utf-8").startswith("Hello")


def test_turns_of_a_conversation_are_not_held_again(tmp_path: Path, wire: WireServer) -> None:
    (tmp_path / "p.yaml").write_text(
        f'providers: {{openai: {{base_url: "{wire.openai_url}"}}}}\n'
        "nodes: {a: {prompt: hi, model: openai/m, output: json}}\n"
    )
    wire.script["m"] = [Say("no"), "stall", Say("[1]")]
    process = started("run", "p.yaml", cwd=tmp_path)
    wire.await_calls(2)
    kill(process)
    done = program("resume", "last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(wire.calls) == 3
    assert [len(call.body["messages"]) for call in wire.calls] == [2, 4, 4]


def test_statistics_are_of_the_node_and_not_of_each_instance(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text('nodes: {a: {call: "json:dumps", with: {obj: "{{ item }}"}, foreach: [1, 2, 3]}}')
    assert program("run", "p.yaml", cwd=tmp_path).returncode == 0
    told = program("stats", "p.yaml", "--format", "json", cwd=tmp_path).stdout
    assert '"a"' in told
    assert "a[" not in told
    result = agentdag.run(agentdag.load(tmp_path / "p.yaml"))
    assert result.nodes["a"].status is Status.SUCCEEDED


LOOPS = """
inputs: {{topic: {{}}}}
nodes: {{x: {{prompt: "{{{{ inputs.topic }}}}", model: openai/m}}}}
"""


@pytest.mark.parametrize("kind", ["loop", "pipeline loop", "conversation", "fan"])
def test_an_interrupt_begins_no_further_round(tmp_path: Path, wire: WireServer, kind: str) -> None:
    (tmp_path / "inner.yaml").write_text(LOOPS.format())
    (tmp_path / "round_tools.py").write_text("def look() -> str:\n    return 'nothing'\n")
    node = {
        "loop": 'prompt: x, model: openai/m, repeat: {until: "{{ false }}", max: 50}',
        "pipeline loop": 'pipeline: inner.yaml, with: {topic: x}, repeat: {until: "{{ false }}", max: 50}',
        "conversation": "prompt: x, model: openai/m, tools: [look], max_turns: 50",
        "fan": 'prompt: "{{ item }}", model: openai/m, foreach: "{{ range(50) | list }}"',
    }[kind]
    (tmp_path / "p.yaml").write_text(
        f'providers: {{openai: {{base_url: "{wire.openai_url}"}}}}\nlimits: {{concurrency: 1}}\n'
        'tools: {look: {call: "round_tools:look"}}\n'
        f"nodes: {{a: {{{node}}}}}\n"
    )
    wire.latency_s = 0.3
    wire.usual = lambda body: Say(calls=(("look", {}),)) if body.get("tools") else Say("again")
    process = started("run", "p.yaml", cwd=tmp_path)
    wire.await_calls(2)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - begun < 8, "nobody waits for rounds that are not begun"
    assert len(wire.calls) <= 3
    made = len(wire.calls)
    wire.usual = lambda _body: Say("done")
    wire.latency_s = 0
    (tmp_path / "p.yaml").write_text((tmp_path / "p.yaml").read_text().replace("false", "previous is not none"))
    done = program("resume", "last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(wire.calls) <= made + (50 if kind == "fan" else 3)
