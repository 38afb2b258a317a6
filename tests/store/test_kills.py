"""kill -9, a full disk and a broken one, at every write and every sync of a run's database: real kills by strace.

A function that appends its name to a file stands for the paid call: what it has written is what was paid for.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from program import AGENTDAG, keyless
from program import agentdag as program

import agentdag
from agentdag import RunStatus, StoreError, UsageError, load, resume
from agentdag.store.history import History
from agentdag.store.keeper import find_run

HERE = {"AGENTDAG_STORE": ""}
CALLS = "pwrite64,fsync,fdatasync,ftruncate"
FUNCTIONS = """
import os, pathlib
def pay(name, x=None):
    handle = os.open(pathlib.Path(__file__).with_name("paid"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(handle, f"{name}\\n".encode())
    os.close(handle)
    return name
"""
RUN = """
import sys
import agentdag
try:
    sys.exit(agentdag.run(agentdag.load("p.yaml"), store=".agentdag").exit_code)
except agentdag.StoreError as error:
    sys.exit(4)
"""
HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""
PIPELINE = """
nodes:
  a: {call: "till:pay", idempotent: true, with: {name: a}}
  b: {call: "till:pay", idempotent: true, with: {name: b, x: "{{ nodes.a.output }}"}}
outputs: {all: "{{ nodes.b.output }}"}
"""


def works() -> bool:
    """Whether strace is here and may trace."""
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(
            ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "true"], capture_output=True, check=False
        ).returncode
        == 0
    )


pytestmark = pytest.mark.skipif(not works(), reason="strace is not installed, or may not trace")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "till.py").write_text(FUNCTIONS)
    (tmp_path / "p.yaml").write_text(PIPELINE)
    return tmp_path


def traced(folder: Path, inject: str) -> subprocess.CompletedProcess[str]:
    """The run, with *inject* done to what its database's files are told."""
    files = [
        argument
        for name in ("journal.sqlite", "journal.sqlite-wal")
        for argument in ("-P", str(folder / ".agentdag" / name))
    ]
    how = ["strace", "-f", "--seccomp-bpf", "-o", str(folder / "trace"), *files]
    how += ["-e", f"trace={CALLS}", "-e", f"inject={inject}"]
    return subprocess.run(
        [*how, sys.executable, "-c", RUN], cwd=folder, env=keyless(**HERE), capture_output=True, text=True, check=False
    )


def paid(folder: Path) -> Counter[str]:
    file = folder / "paid"
    return Counter(file.read_text().split()) if file.exists() else Counter()


def committed(folder: Path) -> set[str]:
    """Whose answers a fresh reader finds."""
    if not (folder / ".agentdag" / "journal.sqlite").is_file():
        return set()
    history = History(folder / ".agentdag")
    try:
        return {name for run in history.ids() for name, node in history.record(run).nodes.items() if node.answers}
    finally:
        history.close()


def goes_on(folder: Path) -> None:
    """The run is resumed, or begun where nothing of it was written; what was committed is not paid for again."""
    before, there = paid(folder), committed(folder)
    try:
        history, run = find_run(iter([folder / ".agentdag"]), "last")
        history.close()
    except (StoreError, UsageError):
        run = ""
    if run:
        result = resume(run, store=folder / ".agentdag")
    else:
        assert not before
        result = agentdag.run(load(folder / "p.yaml"), store=folder / ".agentdag")
    assert (result.status, result.outputs) == (RunStatus.SUCCEEDED, {"all": "b"})
    again = paid(folder) - before
    assert not there & set(again), f"{there & set(again)} were committed"
    assert all(times == 1 for times in again.values())
    assert set(paid(folder)) == set("ab")


def count(folder: Path) -> int:
    """How many writes and syncs a run takes."""
    assert traced(folder, f"{CALLS}:delay_enter=0").returncode == 0
    return sum("(" in line and "exited" not in line for line in (folder / "trace").read_text().splitlines())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(2))
def test_a_kill_at_any_write_or_sync_loses_nothing_that_was_committed(part: int, folder: Path) -> None:
    total = count(folder)
    assert total > 20
    for number in range(1 + part, total + 1, 4):  # each is much like the next
        for name in ("paid", ".agentdag"):
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
        done = traced(folder, f"{CALLS}:signal=KILL:when={number}")
        if done.returncode == 0:
            continue  # it had ended before
        goes_on(folder)


@pytest.mark.parametrize("number", [3, 20, 30])
@pytest.mark.parametrize(("call", "error"), [("pwrite64", "ENOSPC"), ("fdatasync", "EIO")])
def test_a_disk_that_fails_ends_with_4_and_nothing_is_lost(call: str, error: str, number: int, folder: Path) -> None:
    first = traced(folder, f"{call}:error={error}:when={number if call == 'pwrite64' else number // 3 + 1}+")
    if first.returncode == 0:
        pytest.skip("the run had ended before")
    assert first.returncode == 4, first.stderr
    assert "Traceback" not in first.stderr
    before = paid(folder)
    if before:
        done = program("resume", "last", cwd=folder, **HERE)
        assert (done.returncode, done.stdout) == (0, "b\n"), done.stderr
        assert paid(folder) == Counter("ab"), "what was paid for is in the spill"
    else:
        goes_on(folder)


def test_a_lock_of_a_minute_is_outlasted_or_told(folder: Path) -> None:
    program("run", "p.yaml", cwd=folder, **HERE)
    database = folder / ".agentdag" / "journal.sqlite"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    (folder / "paid").unlink()
    waiting = subprocess.Popen(
        [*AGENTDAG, "run", "p.yaml"], cwd=folder, env=keyless(**HERE), stderr=subprocess.PIPE, text=True
    )
    _, told = waiting.communicate(timeout=90)
    holder.communicate("")
    assert waiting.returncode == 4, told
    assert "locked" in told
    assert not paid(folder), "nothing is launched while nothing can be written"
