"""Files that a pipeline names: found under its folder, or refused.

A path that leaves the folder, by `..`, by being absolute or by a link, needs `--allow-path`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from agentdag.language.findings import did_you_mean

MAX_FILE_BYTES = 16 * 2**20
MAX_LOOK = 1000
"""Files among which one of a like name is looked for."""


class FileProblem(Exception):
    """A file that cannot be used: why, and the mend."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def is_within(path: Path, folder: Path, allowed: Sequence[Path] = ()) -> bool:
    """Whether *path* is inside *folder* or inside one of *allowed*, links followed."""
    try:
        resolved = path.resolve()
        return any(resolved.is_relative_to(root.resolve()) for root in (folder, *allowed))
    except (OSError, ValueError, RuntimeError):
        return False


def locate(name: str, folder: Path, allowed: Sequence[Path] = ()) -> Path:
    """The file *name*, relative to *folder* and inside it or inside one of *allowed*; raises FileProblem."""
    try:
        path = (folder / name).resolve()
        if not is_within(path, folder, allowed):
            raise FileProblem(
                f"`{name}` is outside the pipeline's folder",
                "move it there, or allow its folder with --allow-path",
            )
        if path.is_dir():
            raise FileProblem(f"`{name}` is a folder", "name a file in it")
        if not path.is_file():
            beside = [f"{name.rpartition('/')[0]}/{each}".lstrip("/") for each in _names_in(path.parent)]
            raise FileProblem(
                f"there is no file `{name}`", did_you_mean(name, beside) or f"paths are relative to {folder}"
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise FileProblem(f"`{name}` is no usable path: {error}") from None
    return path


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(islice((each.name for each in folder.iterdir() if each.is_file()), MAX_LOOK))
    except OSError:
        return []


def read(path: Path, name: str) -> str:
    """The UTF-8 text of *path*, without a byte order mark and with `\\n` line ends; raises FileProblem."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise FileProblem(f"`{name}` cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise FileProblem(f"`{name}` is larger than {MAX_FILE_BYTES // 2**20} MiB", "split it")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise FileProblem(f"`{name}` is not UTF-8 text (byte {error.start})", "convert it to UTF-8 text") from None
