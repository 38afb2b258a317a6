"""Large outputs live in the store: a run holds those that are being read, and no others."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import agentdag
from agentdag import Options
from agentdag.engine import shelf
from agentdag.plan.plan import Plan

Compile = Callable[[str], Plan]
MIB = 2**20
STEPS = """
def much(n):
    return str(n) * (4 * 2**20)
def size(text):
    return len(text)
"""


def chain(size: int) -> str:
    """Large outputs one after another, each read by the next."""
    nodes = ['  n0: {call: "shelf_steps:much", with: {n: 1}}']
    for number in range(1, size):
        nodes.append(
            f'  s{number}: {{call: "shelf_steps:size", with: {{text: "{{{{ nodes.n{number - 1}.output }}}}"}}}}'
        )
        nodes.append(f'  n{number}: {{call: "shelf_steps:much", with: {{n: {number % 10}}}, needs: [s{number}]}}')
    return (
        "limits: {concurrency: 1}\nnodes:\n"
        + "\n".join(nodes)
        + f'\noutputs: {{last: "{{{{ nodes.s{size - 1}.output }}}}"}}'
    )


def peak(plan: Plan, store: Path | None) -> tuple[int, agentdag.RunResult]:
    tracemalloc.start()
    result = agentdag.run(plan, options=Options(), store=store)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most, result


def test_a_run_holds_what_is_being_read_and_no_more(plan: Compile, tmp_path: Path) -> None:
    (tmp_path / "shelf_steps.py").write_text(STEPS)
    few, many = (peak(plan(chain(size)), tmp_path / "store")[0] for size in (4, 16))
    assert many < few + 12 * MIB, "twelve more outputs of 4 MiB"


def test_what_was_set_aside_is_there_when_it_is_asked_for(plan: Compile, tmp_path: Path) -> None:
    (tmp_path / "shelf_steps.py").write_text(STEPS)
    _, result = peak(plan(chain(3)), tmp_path / "store")
    assert result.outputs == {"last": 4 * MIB}
    assert result.nodes["n1"].output == "1" * 4 * MIB
    assert set(result.nodes) == {"n0", "s1", "n1", "s2", "n2"}
    again = agentdag.run(plan(chain(3)), options=Options())
    assert again.nodes["n2"].output == "2" * 4 * MIB, "without a store it stays where it is"


def test_only_what_is_large_is_set_aside() -> None:
    assert not shelf._is_large(["x" * 100] * 1000)
    assert shelf._is_large({"a": ["x" * 1000] * 300})
    assert not shelf._is_large(None)
