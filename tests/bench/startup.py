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


def big_pipeline(plain: bool) -> str:
    """10,000 nodes of eight keys."""
    prompt = "Look at {{ nodes.n%d.output }} again" if plain else "{%% if nodes.n%d.ok %%}yes{%% endif %%}"
    nodes = []
    for i in range(10_000):
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
    with tempfile.TemporaryDirectory() as folder:
        for plain in (True, False):
            file = Path(folder) / "big.yaml"
            file.write_text(big_pipeline(plain))
            compose = cpu("-c", f"import yaml; yaml.compose(open({str(file)!r}), Loader=yaml.CSafeLoader)", rounds=3)
            compose -= cpu("-c", "import yaml", rounds=3)
            ours = cpu("-m", "agentdag.cli", "validate", str(file), rounds=3) - validate
            kind = "plain templates" if plain else "Jinja templates"
            yield Figure(
                f"validate 10,000 nodes, {kind}", ours / compose, 6, f"{ours:.2f} s, composing {compose:.2f} s"
            )
