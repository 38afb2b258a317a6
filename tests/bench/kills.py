"""Random kill -9 of a run of 40 siblings: answers lost and calls repeated, of what was committed and of the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import agentdag
from agentdag.store.history import History
from tests.bench import Figure

KILLS = 200
SIBLINGS, CAP = 40, 8
FUNCTION = """
import asyncio, os, pathlib
PAID = pathlib.Path(__file__).with_name("paid")
async def pay(name):
    handle = os.open(PAID, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(handle, f"{name}\\n".encode())
    os.close(handle)
    await asyncio.sleep(0.02)
    return name
"""
RUN = "import agentdag; agentdag.run(agentdag.load('p.yaml'), store='store')"


def measure() -> Iterator[Figure]:
    chance = Random(1)
    lost = repeated = again = most = tried = 0
    for number in range(KILLS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            module = f"kills_{number}"
            (folder / f"{module}.py").write_text(FUNCTION)
            nodes = "".join(
                f"  n{each}: {{call: '{module}:pay', with: {{name: n{each}}}, idempotent: true}}\n"
                for each in range(SIBLINGS)
            )
            (folder / "p.yaml").write_text(f"limits: {{concurrency: {CAP}}}\nnodes:\n{nodes}")
            committed, before = _killed(folder, chance)
            if before is None:
                continue
            tried += 1
            history = History(folder / "store")
            run = history.ids("last")[0]
            history.close()
            result = agentdag.resume(run, store=folder / "store")
            calls = _paid(folder) - before
            lost += sum(result.nodes[node].output != node for node in committed)
            repeated += sum(calls[node] for node in committed)
            once_more = sum(calls[node] for node in before)
            again += once_more
            most = max(most, once_more)
    told = f"{tried} kills in mid-run, {again} calls in flight repeated in all"
    yield Figure("committed answers lost", lost, 0, told)
    yield Figure("committed calls repeated", repeated, 0, told)
    what = "calls repeated: in flight, or their answers being written"
    yield Figure(what, most, 2 * CAP, f"cap {CAP}")


def _killed(folder: Path, chance: Random) -> tuple[set[str], Counter[str] | None]:
    """Whose answers are committed after a kill at a random moment, and who was called; None where it had ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=folder, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    while not (folder / "paid").exists():
        if process.poll() is not None:
            return set(), None
    time.sleep(chance.uniform(0, SIBLINGS / CAP * 0.025))
    process.send_signal(signal.SIGKILL)
    process.wait()
    history = History(folder / "store")
    try:
        record = history.record(history.ids("last")[0])
        return {name for name, node in record.nodes.items() if node.answers}, _paid(folder)
    finally:
        history.close()


def _paid(folder: Path) -> Counter[str]:
    return Counter((folder / "paid").read_text().split())
