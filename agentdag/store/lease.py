"""Who runs a run at this moment: a file with a kernel lock, which a dead process cannot keep.

The lock is on a file of its own, because closing any handle of a file drops a process's locks on it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from agentdag.errors import StoreError

_HELD: set[Path] = set()
"""The leases of this process: to open one of these files a second time would drop its lock."""

_TRIES, _PAUSE_S = 5, 0.02
"""Whoever asks `is_live` has the lock for an instant."""


class Lease:
    """The right to go on with the run *name*; raises StoreError where another process has it."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = _path(folder, name)
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        self._handle = self._lock(name)
        os.ftruncate(self._handle, 0)
        os.write(self._handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        _HELD.add(self._path)

    def _lock(self, name: str) -> int:
        if self._path in _HELD:
            raise _taken(name, self._path)
        for tries_left in reversed(range(_TRIES)):
            handle = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(handle).st_nlink:  # else whoever had it has just removed it
                    return handle
            except OSError as error:
                if not tries_left:
                    os.close(handle)
                    raise _taken(name, self._path) from error
            os.close(handle)
            time.sleep(_PAUSE_S)
        raise _taken(name, self._path)

    def release(self) -> None:
        """Nobody runs it any more."""
        if self._path in _HELD:
            self._path.unlink(missing_ok=True)
            _HELD.discard(self._path)
            os.close(self._handle)


def is_live(folder: Path, name: str) -> bool:
    """Whether some process runs *name*."""
    path = _path(folder, name)
    if path in _HELD:
        return True
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _path(folder: Path, name: str) -> Path:
    return folder.absolute() / "leases" / name


def _taken(name: str, path: Path) -> StoreError:
    try:
        owner = json.loads(path.read_bytes()) if path not in _HELD else {"pid": os.getpid()}
        who = f"process {owner['pid']}" + (f" on {owner['host']}" if "host" in owner else "")
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return StoreError(f"{name} is being run by {who}", hint="wait for it to end, or interrupt it there")
