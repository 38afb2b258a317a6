"""Real signals to the real program: during a join, a retry wait, a progressive pass; with a child that ignores them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from program import AGENTDAG, FAST, agentdag

CHILD = """
import signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
open(sys.argv[1], "w").write(str(__import__("os").getpid()))
time.sleep(600)
"""
SPAWNS = """
import pathlib, subprocess, sys
def spawn(note):
    subprocess.run([sys.executable, str(pathlib.Path(__file__).with_name("child.py")), note])
"""


@contextmanager
def running(folder: Path, text: str) -> Iterator[tuple[subprocess.Popen[str], Iterator[dict[str, Any]]]]:
    """The program at work on *text*, and its events as they come."""
    (folder / "p.yaml").write_text(text)
    process = subprocess.Popen(
        [*AGENTDAG, "run", "p.yaml", "--simulate", "--format", "json"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process, (json.loads(line) for line in process.stdout)
    finally:
        process.kill()
        process.communicate()


def until(events: Iterator[dict[str, Any]], kind: str, **fields: object) -> dict[str, Any]:
    """The next event of *kind* with these *fields*."""
    return next(
        event
        for event in events
        if event["type"] == kind and all(event[name] == value for name, value in fields.items())
    )


JOIN = """
nodes:
  a: {prompt: hi, model: simulated/m, expect: {latency: 10ms}}
  b: {prompt: hi, model: simulated/m, expect: {latency: 1s}}
  join: {needs: [a, b], barrier: {timeout: 30s}, prompt: hi, model: simulated/m}
"""
RETRY = """
nodes:
  a: {prompt: hi, model: simulated/m, expect: {latency: 10ms}, simulate: {fail: [server]}, retry: {delay: 1h, max_delay: 1h}}
  b: {prompt: hi, model: simulated/m, expect: {latency: 1s}}
"""
PASS = """
nodes:
  a: {prompt: hi, model: simulated/m, expect: {latency: 10ms}}
  b: {prompt: hi, model: simulated/m, expect: {latency: 2s}}
  join: {needs: [a, b], barrier: progressive, prompt: "{{ pending }}", model: simulated/m, expect: {latency: 1s}}
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("text", "when", "statuses"),
    [
        (JOIN, ("node.settled", "a"), {"a": "succeeded", "b": "succeeded", "join": "skipped"}),
        (RETRY, ("node.retrying", "a"), {"a": "cancelled", "b": "succeeded"}),
        (PASS, ("node.started", "join"), {"a": "succeeded", "b": "succeeded", "join": "cancelled"}),
    ],
    ids=["join", "retry wait", "progressive pass"],
)
def test_once_lets_what_is_in_flight_finish_and_starts_nothing(
    tmp_path: Path, text: str, when: tuple[str, str], statuses: dict[str, str], number: signal.Signals
) -> None:
    with running(tmp_path, text) as (process, events):
        until(events, when[0], node=when[1])
        process.send_signal(number)
        settled: dict[str, dict[str, Any]] = {}
        started = []
        for event in events:
            if event["type"] == "node.settled":
                settled[event["node"]] = event
            elif event["type"] == "node.started":
                started.append(event["node"])
        assert process.wait(30) == 128 + number
    assert {"a": "succeeded"} | {name: event["status"] for name, event in settled.items()} == statuses
    assert event["type"] == "run.finished"
    assert event["status"] == "interrupted"
    if text is PASS:
        assert settled["join"]["output"].endswith('["b"]'), "the pass that finished is kept"


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return "Z" in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_twice_ends_at_once_and_takes_children_along_that_ignore_it(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "spawns.py").write_text(SPAWNS)
    note = tmp_path / "pid"
    os.mkfifo(note)
    text = f"""
nodes:
  done: {{prompt: hi, model: simulated/m, expect: {{latency: 10ms}}}}
  child: {{call: "spawns:spawn", with: {{note: "{note}"}}}}
"""
    with running(tmp_path, text) as (process, events):
        until(events, "node.settled", node="done", status="succeeded")
        child = int(note.read_text())  # waits until it is there, and ignores signals
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "interrupted" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        settled = until(events, "node.settled", node="child")
        assert (settled["status"], settled["reason"]) == ("cancelled", "interrupted")
        assert until(events, "run.finished")["nodes"] == {"succeeded": 1, "cancelled": 1}
        assert process.wait(30) == 130
    assert gone(child)


@pytest.mark.parametrize(("before", "after"), [("default_int_handler", "SIG_DFL"), ("SIG_IGN", "SIG_IGN")])
def test_an_interrupt_while_it_starts_ends_it_without_a_word(before: str, after: str) -> None:
    code = (
        f"import signal; signal.signal(signal.SIGINT, signal.{before}); import agentdag.cli.__main__; "
        f"assert signal.getsignal(signal.SIGINT) is signal.{after}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_however_often_it_is_interrupted_it_says_how_it_ended(tmp_path: Path) -> None:
    text = "nodes:\n" + "".join(
        f"  n{number}: {{prompt: hi, model: simulated/m, expect: {{latency: {latency}}}}}\n"
        for number, latency in enumerate(["10ms", "1m", "1m"])
    )
    with running(tmp_path, text) as (process, events):
        until(events, "node.settled", node="n0")
        while process.poll() is None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.002)
        assert process.returncode == 130
        assert until(events, "run.finished")["exit_code"] == 130


def test_a_function_that_swallows_its_end_keeps_nobody(tmp_path: Path) -> None:
    (tmp_path / "swallows.py").write_text(
        "import asyncio\n"
        "async def swallow():\n"
        "    while True:\n"
        "        try:\n            await asyncio.sleep(0.01)\n"
        "        except BaseException:\n            pass\n"
    )
    (tmp_path / "p.yaml").write_text(
        'nodes:\n  a: {call: "swallows:swallow", timeout: 100ms}\n  b: {prompt: hi, model: simulated/m}\n'
    )
    done = agentdag("run", "p.yaml", *FAST, cwd=tmp_path)
    assert done.returncode == 1
    assert "does not stop although it was cancelled" in done.stderr
    assert "1 succeeded" in done.stderr
