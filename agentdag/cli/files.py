"""Which files a command means: pipelines by name, and those inside folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentdag.language.findings import did_you_mean
from agentdag.language.spec import PipelineSpec

SUFFIXES = frozenset({".yaml", ".yml"})
_FOREIGN = frozenset({"apiVersion", "jobs", "runs", "services", "on", "openapi", "swagger", "repos"})
"""Top-level keys of other programs' files, which may have some of ours as well."""
_SPEAKING = frozenset(PipelineSpec.model_fields) - {"version", "name", "description"}
_TOP_KEY = re.compile(r"""^["']?([A-Za-z_][\w-]*)["']?[ \t]*:""", re.MULTILINE)
_FLOW_NODES = re.compile(r"""\A(?:\s|#.*\n)*\{(?:.*[\s{,])?["']?nodes["']?\s*:""", re.DOTALL)
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
    found.files = list(dict.fromkeys(found.files))
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
    meant = {key for key in keys if key == "nodes" or did_you_mean(key, ["nodes", "agents"])}
    return bool(meant) or len(keys & _SPEAKING) >= 2 or bool(_FLOW_NODES.match(text))
