"""What the command line tells of agents, programs, fans and pipelines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from program import FAST
from program import agentdag as program

PIPELINE = f"""
tools:
  search: {{call: "show_tools:search"}}
nodes:
  agent: {{prompt: hi, model: openai/m, tools: [search]}}
  each: {{call: "json:dumps", with: {{obj: "{{{{ item }}}}"}}, foreach: "{{{{ range(30) | list }}}}"}}
  sub: {{pipeline: inner.yaml}}
  run: {{command: [{json.dumps(sys.executable)}, -c, "import sys; print(1); print('careful', file=sys.stderr)"], simulate: false}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "show_tools.py").write_text("def search(words: str) -> str:\n    return 'found ' + words\n")
    (tmp_path / "inner.yaml").write_text('nodes: {x: {call: "json:dumps", with: {obj: 1}}}')
    (tmp_path / "p.yaml").write_text(PIPELINE)
    done = program("run", "p.yaml", *FAST, "--format", "plain", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_show_tells_the_turns_and_the_tools_of_an_agent(folder: Path) -> None:
    told = program("show", "last", "agent", cwd=folder).stdout
    assert "turn 1" in told
    assert "search {" in told
    assert ": found simulated words" in told
    plain = json.loads(program("show", "last", "agent", "--format", "json", cwd=folder).stdout)
    (request,) = plain["requests"]
    assert request["tools"][0]["result"] == "found simulated words"
    assert request["turns"][0]["calls"][0]["tool"] == "search"
    assert plain["settled"]["turns"] == 2


def test_show_tells_what_a_program_said_besides(folder: Path) -> None:
    told = program("show", "last", "run", cwd=folder).stdout
    assert "it also said\n    careful" in told
    assert f"ran {sys.executable} -c" in told


def test_show_folds_the_instances_of_a_long_list(folder: Path) -> None:
    told = program("show", "last", cwd=folder).stdout
    assert "\neach " in told
    assert "each[3]" not in told
    assert "and 30 more instances" in told
    assert "sub.x" in told
    assert program("show", "last", "each[3]", cwd=folder).returncode == 0


def test_events_name_the_instances(folder: Path) -> None:
    lines = program("run", "p.yaml", *FAST, "--format", "json", "--no-store", cwd=folder).stdout.splitlines()
    events = [json.loads(line) for line in lines]
    expanded = {event["node"]: event["items"] for event in events if event["type"] == "node.expanded"}
    assert expanded == {"each": 30, "sub": None}
    settled = {event["node"]: event for event in events if event["type"] == "node.settled"}
    assert settled["each"]["parts"] == 30
    assert "each[29]" in settled
    assert "sub.x" in settled
    tools = [event["type"] for event in events if event["type"].startswith("tool.")]
    assert tools == ["tool.started", "tool.finished"]
    assert (
        next(event for event in events if event["type"] == "turn.finished")["exchange"]["calls"][0]["name"] == "search"
    )


def test_what_is_resolved_says_all_of_it(folder: Path) -> None:
    told = program("validate", "--print", "p.yaml", cwd=folder).stdout
    for words in ("foreach:", "range(30)", "pipeline: inner.yaml", "tools:", "max_turns: 8", "command:"):
        assert words in told
    (folder / "again.yaml").write_text(told)
    assert program("validate", "again.yaml", cwd=folder).returncode == 0


def test_a_dry_run_says_what_would_be_done(folder: Path) -> None:
    told = program("run", "p.yaml", "--dry-run", cwd=folder).stdout
    assert "runs the pipeline inner.yaml" in told
    assert f"runs {sys.executable}" in told
