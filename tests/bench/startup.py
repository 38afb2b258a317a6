"""CPU of starting, against `python -c pass`; and of validating 10,000 nodes, against composing them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench import Figure

ROUNDS = 7


def cpu(*arguments: str, rounds: int = ROUNDS) -> float:
    """The least CPU seconds, user and system, of running Python with *arguments*."""
    best = float("inf")
    null = os.open(os.devnull, os.O_WRONLY)
    for _ in range(rounds):
        before = os.times()
        pid = os.posix_spawn(
            sys.executable, [sys.executable, *arguments], os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)],
        )  # fmt: skip
        _, status = os.waitpid(pid, 0)
        after = os.times()
        assert status == 0, arguments
        best = min(best, after.children_user - before.children_user + after.children_system - before.children_system)
    os.close(null)
    return best


def perf(*arguments: str) -> float:
    """As `cpu`, but of 20 runs together: one start of Python is near the clock's tick."""
    code = "import subprocess, sys; [subprocess.run([sys.executable, '-c', 'pass']) for _ in range(40)]"
    return (
        (cpu("-c", code, rounds=3) - cpu("-c", "import subprocess", rounds=3)) / 40
        if not arguments
        else cpu(*arguments)
    )


def big_pipeline(plain: bool, size: int = 10_000) -> str:
    """*size* nodes of eight keys."""
    prompt = "Look at {{ nodes.n%d.output }} again" if plain else "{%% if nodes.n%d.ok %%}yes{%% endif %%}"
    nodes = []
    for i in range(size):
        text = prompt % (i - 1) if i % 50 else "Begin"
        nodes.append(
            f"  n{i}:\n    prompt: '{text}'\n    model: openai/gpt-5-mini\n    timeout: 30s\n    retry: 2\n"
            f"    priority: high\n    description: node {i}\n    max_tokens: 100\n    expect: {{latency: 3s, tokens: 200}}\n"
        )
    return "nodes:\n" + "".join(nodes)


def measure() -> Iterator[Figure]:
    nothing = perf()
    yield Figure(
        "agentdag --help",
        cpu("-m", "agentdag.cli", "--help") / nothing,
        40,
        f"python -c pass takes {nothing * 1000:.1f} ms",
    )
    sample = "pipelines/due_diligence.yaml"
    validate = cpu("-m", "agentdag.cli", "validate", sample)
    yield Figure("agentdag validate on a sample", validate / nothing, 60, f"{validate * 1000:.0f} ms")
    graph = cpu("-m", "agentdag.cli", "graph", sample)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "big.yaml"
        for size, plain, rounds, bound in ((1000, True, 9, 3), (10_000, True, 3, 6), (10_000, False, 3, 6)):
            file.write_text(big_pipeline(plain, size))
            compose = composing(file, rounds)
            ours = cpu("-m", "agentdag.cli", "validate", str(file), rounds=rounds) - validate
            told = f"validate {size:,} nodes, {'plain' if plain else 'Jinja'} templates"
            yield Figure(told, ours / compose, bound, f"{ours:.2f} s, composing {compose:.2f} s")
        drawn = cpu("-m", "agentdag.cli", "graph", str(file), rounds=3) - graph
        yield Figure("graph of 10,000 nodes", drawn / compose, 8, f"{drawn:.2f} s, composing {compose:.2f} s")


def composing(file: Path, rounds: int) -> float:
    """CPU seconds of composing *file* with PyYAML's own C parser."""
    whole = cpu("-c", f"import yaml; yaml.compose(open({str(file)!r}), Loader=yaml.CSafeLoader)", rounds=rounds)
    return whole - cpu("-c", "import yaml", rounds=rounds)
