"""Which files a command means: pipelines by name, and those inside folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentdag.language.spec import PipelineSpec

SUFFIXES = frozenset({".yaml", ".yml"})
_FOREIGN = frozenset({"apiVersion", "jobs", "runs", "services", "on", "openapi", "swagger", "repos"})
"""Top-level keys of other programs' files, which may have some of ours as well."""
_SPEAKING = frozenset(PipelineSpec.model_fields) - {"version", "name", "description"}
_MEANT = frozenset({"node", "agents", "agent", "steps", "tasks"})
"""What is written where `nodes` is meant."""
_TOP_KEY = re.compile(r"""^(?:\{[ \t]*)?["']?([A-Za-z_][\w-]*)["']?[ \t]*:""", re.MULTILINE)
_ASKS = re.compile(r"\b(?:prompt|promt|promtp|prompt_file|call|model|tier)s?\b[\"']?[ \t]*:", re.IGNORECASE)
"""What nearly every pipeline has somewhere, be it a broken one."""
MAX_LOOK = 2**20
"""Characters of a file that are looked at to tell whether it is a pipeline."""


@dataclass
class Found:
    """The pipelines to look at; folders in which there is none; and how many YAML files there are no pipelines."""

    files: list[Path] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)
    others: int = 0


def pipelines(paths: Sequence[Path]) -> Found:
    """What *paths* mean. A file that is named is taken as it is; in a folder, only what looks like a pipeline."""
    found = Found()
    for path in paths:
        if not path.is_dir():
            found.files.append(path)
            continue
        inside = sorted(_yaml_files(path))
        chosen = [file for file in inside if is_pipeline(file)]
        found.files += chosen
        found.others += len(inside) - len(chosen)
        found.empty += [] if chosen else [path]
    found.files = list({file.resolve(): file for file in reversed(found.files)}.values())[::-1]
    return found


def _yaml_files(folder: Path) -> Iterator[Path]:
    """The YAML files below *folder*, but for hidden folders, and those of environments and packages."""
    for name, folders, files in os.walk(folder):
        here = Path(name)
        folders[:] = [
            each
            for each in folders
            if not each.startswith(".") and each != "node_modules" and not (here / each / "pyvenv.cfg").exists()
        ]
        yield from (here / file for file in files if Path(file).suffix in SUFFIXES and not file.startswith("."))


def is_pipeline(file: Path) -> bool:
    """Whether *file* looks like a pipeline, be it a broken one; told by its top-level keys."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as stream:
            text = stream.read(MAX_LOOK)
    except OSError:
        return True  # it will be told that it cannot be read
    keys = set(_TOP_KEY.findall(text))
    if keys & _FOREIGN:
        return False
    known = keys & _SPEAKING
    meant = "nodes" in known or keys & _MEANT or {key.lower() for key in keys} & {"nodes"}
    return bool(_ASKS.search(text)) if meant or len(known) >= 2 else False
