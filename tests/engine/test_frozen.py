"""A run that goes on sees what it saw: passes that are over, items that were left out, and nothing is done twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from program import agentdag as program

STEPS = """
import json, os
from pathlib import Path

def tried(name):
    with open("log.txt", "a") as log:
        log.write(name + "\\n")
    return name

def item(x):
    tried(f"item {x}")
    if x == 1 and not Path("fixed").exists():
        raise ValueError("not yet")
    return x

def later():
    if not Path("fixed").exists():
        raise ValueError("not yet")
    return "fine"

def count(number, fail_at):
    tried(f"count {number}")
    if number == fail_at and not Path("fixed").exists():
        raise ValueError("not yet")
    return number

def poll():
    tried("poll")
    return len([line for line in Path("log.txt").read_text().splitlines() if line == "poll"])
"""
MAIL = """
import sys
text = sys.stdin.read()
open("log.txt", "a").write(f"mail {text}\\n")
print("sent")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "frozen_steps.py").write_text(STEPS)
    (tmp_path / "mail.py").write_text(MAIL)
    return tmp_path


def fails(folder: Path, *more: str) -> None:
    assert program("run", "p.yaml", *more, cwd=folder).returncode == 1


def mended(folder: Path, *more: str) -> str:
    """What is printed by a run that goes on after what had failed has been mended."""
    (folder / "fixed").touch()
    done = program("resume", "last", *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def log(folder: Path) -> list[str]:
    return (folder / "log.txt").read_text().splitlines()


def test_an_item_that_was_left_out_stays_out(folder: Path) -> None:
    (folder / "p.yaml").write_text(
        """
nodes:
  f: {call: "frozen_steps:item", with: {x: "{{ item }}"}, foreach: {items: [0, 1, 2], on_item_failure: null}}
  mail: {command: [python3, mail.py], stdin: "{{ nodes.f.output }}"}
  k: {call: "frozen_steps:later", needs: [mail]}
"""
    )
    fails(folder)
    mended(folder)
    assert [line for line in log(folder) if line.startswith("mail")] == ["mail [0, null, 2]"]
    assert log(folder).count("item 1") == 1


@pytest.mark.parametrize("outputs", ['{b: "{{ nodes.b.output }}"}', '{a: "{{ nodes.a.ok }}"}'], ids=["join", "output"])
def test_an_optional_failure_within_a_pipeline_stays_as_it_was_seen(folder: Path, outputs: str) -> None:
    (folder / "child.yaml").write_text(
        f"""
nodes:
  a: {{call: "frozen_steps:item", with: {{x: 1}}, continue_on_failure: true}}
  b: {{command: [python3, mail.py], stdin: "{{{{ nodes.a.ok }}}}", needs: [a]}}
outputs: {outputs}
"""
    )
    (folder / "p.yaml").write_text(
        'nodes: {p: {pipeline: child.yaml}, k: {call: "frozen_steps:later", needs: [p]}}'
    )  # fmt: skip
    fails(folder)
    mended(folder)
    assert [line for line in log(folder) if line.startswith("mail")] == ["mail false"]
    assert log(folder).count("item 1") == 1


ROUNDS = """
inputs: {number: {type: integer}}
nodes:
  pay: {call: "frozen_steps:count", with: {number: "{{ inputs.number }}", fail_at: 2}}
outputs: {number: "{{ nodes.pay.output + 1 }}"}
"""


@pytest.mark.parametrize("more", [[], ["--repeat", "loop.pay"]], ids=["plain", "repeat"])
def test_passes_that_are_over_are_not_gone_through_again(folder: Path, more: list[str]) -> None:
    (folder / "child.yaml").write_text(ROUNDS)
    (folder / "p.yaml").write_text(
        """
nodes:
  loop:
    pipeline: child.yaml
    with: {number: "{{ previous.number if previous else 0 }}"}
    repeat: {until: "{{ output.number >= 4 }}", max: 9}
outputs: {number: "{{ nodes.loop.output.number }}"}
"""
    )
    fails(folder)
    assert log(folder) == ["count 0", "count 1", "count 2"]
    printed = mended(folder, *more)
    assert printed.strip() == "4"
    assert log(folder)[3:] == ["count 2", "count 3"]


def test_what_goes_round_is_asked_anew_each_time(folder: Path) -> None:
    (folder / "child.yaml").write_text(
        'nodes: {poll: {call: "frozen_steps:poll", cache: true}}\noutputs: {n: "{{ nodes.poll.output }}"}'
    )
    (folder / "p.yaml").write_text(
        """
nodes:
  loop: {pipeline: child.yaml, repeat: {until: "{{ output.n >= 3 }}", max: 9}}
  k: {call: "frozen_steps:later", needs: [loop]}
outputs: {n: "{{ nodes.loop.output.n }}"}
"""
    )
    fails(folder)
    assert log(folder) == ["poll"] * 3
    printed = mended(folder)
    assert log(folder) == ["poll"] * 3, "what was answered serves"
    assert printed.strip() == "3"


def test_what_streamed_before_a_failure_is_kept(folder: Path) -> None:
    (folder / "p.yaml").write_text(
        """
limits: {concurrency: 1}
nodes:
  a: {call: "frozen_steps:item", with: {x: "{{ item }}"}, foreach: {items: [0, 2, 3, 1], concurrency: 1}}
  b: {call: "frozen_steps:count", with: {number: "{{ item }}", fail_at: 99}, foreach: "{{ nodes.a.output }}"}
"""
    )
    fails(folder, "-c", "2")
    before = log(folder)
    assert "count 0" in before
    printed = mended(folder)
    counted = [line for line in log(folder) if line.startswith("count")]
    assert sorted(counted) == ["count 0", "count 1", "count 2", "count 3"]
    assert "[0, 2, 3, 1]" in " ".join(printed.split()).replace("[ ", "[").replace(" ]", "]")
