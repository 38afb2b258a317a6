"""The program as others start it: a subprocess, with no keys of anybody's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

AGENTDAG = [sys.executable, "-m", "agentdag.cli"]
FAST = ["--simulate", "--time-scale", "0.001"]


def agentdag(
    *arguments: str, cwd: Path | None = None, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AGENTDAG, *arguments],
        capture_output=True, text=True, cwd=cwd, input=stdin, env=keyless(**environment), timeout=60, check=False,
    )  # fmt: skip


def started(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """The program at work: its standard error is to be read, or taken by `communicate`."""
    return subprocess.Popen(
        [*AGENTDAG, *arguments],
        cwd=cwd, env=keyless(**environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def interrupt(process: subprocess.Popen[str]) -> None:
    """One Ctrl-C; returns when the program says that it has heard it. Two at once may reach it as one."""
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert any("interrupted" in line for line in process.stderr)


def kill(process: subprocess.Popen[str]) -> None:
    """End it as the kernel would."""
    process.kill()
    process.communicate()


def keyless(**more: str) -> dict[str, str]:
    """An environment without keys, with *more*."""
    env = {key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")}
    return {**env, **more}
