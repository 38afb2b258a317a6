"""`init`: a pipeline to start from, with what an editor and a first test need."""

from __future__ import annotations

import json
import shlex
import sys
from importlib.resources import files
from pathlib import Path

from agentdag.errors import UsageError
from agentdag.events import Exit
from agentdag.language.schema import json_schema
from agentdag.views.lines import writer

SCHEMA = "pipeline.schema.json"
_FILES = ("pipeline.yaml", "prompts/memo.md")
"""Written as they lie in `cli/starter`."""


def init(folder: Path) -> int:
    """Write the starter into *folder*; raises UsageError rather than write over anything."""
    starter = files("agentdag.cli").joinpath("starter")
    texts = {name: starter.joinpath(name).read_text(encoding="utf-8") for name in _FILES}
    texts[SCHEMA] = schema_text()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is no folder", hint="name another: agentdag init DIR")
    taken = [name for name in texts if (folder / name).exists()]
    if taken:
        raise UsageError(
            f"there is already {', '.join(taken)} in {folder}", hint="name another folder: agentdag init DIR"
        )
    for name, text in texts.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    at = "" if folder == Path() else f"cd {shlex.quote(str(folder))}\n  "
    writer(sys.stdout)(f"""\
{folder / _FILES[0]}  the pipeline, commented
{folder / _FILES[1]}  a prompt that it reads
{folder / SCHEMA}  what your editor completes and checks it by

Try it, without any key:
  {at}agentdag run pipeline.yaml --simulate
Test it in CI:
  agentdag validate --strict . && agentdag run pipeline.yaml --simulate --quiet
""")
    return Exit.SUCCEEDED


def schema_text() -> str:
    """The JSON Schema of a pipeline, as it is written to a file."""
    return json.dumps(json_schema(), indent=2) + "\n"
