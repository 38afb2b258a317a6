"""Programs that the user's functions have started, and that an interrupted run does not leave behind.

Only what descends from this process is touched, and only where the run was stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

TO_END_S = 0.3
"""How long they have to end by themselves."""
_POLL_S = 0.01


def end_children() -> None:
    """Ask all descendants to end, and kill those that do not."""
    left = _descendants()
    _send(left, signal.SIGTERM)
    deadline = time.monotonic() + TO_END_S
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        left = _descendants()
    _send(left, signal.SIGKILL)


def _send(processes: list[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def _descendants() -> list[int]:
    """The processes below this one that still run, parents first."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):  # those that have ended
            pass
    children: dict[int, list[int]] = {}
    for process, parent in _processes():
        children.setdefault(parent, []).append(process)
    found = children.get(os.getpid(), [])
    for process in found:  # grows while it is walked
        found += children.get(process, [])
    return found


def _processes() -> list[tuple[int, int]]:
    """Every process that is no zombie, with its parent; none where the system does not tell."""
    if Path("/proc/self/stat").exists():
        return [pair for entry in Path("/proc").iterdir() if entry.name.isdigit() and (pair := _of_proc(entry))]
    with contextlib.suppress(OSError, ValueError):
        told = subprocess.run(["ps", "-axo", "pid=,ppid=,stat=,comm="], capture_output=True, text=True, check=False)  # noqa: S607
        rows = (line.split(None, 3) for line in told.stdout.splitlines())
        return [(int(row[0]), int(row[1])) for row in rows if len(row) == 4 and row[2][0] != "Z" and row[3] != "ps"]
    return []


def _of_proc(entry: Path) -> tuple[int, int] | None:
    try:
        state, parent = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else (int(entry.name), int(parent))
