"""Outputs in files: written whole or not at all, and never outside the pipeline's folder."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentdag.engine.scope import Instance
from agentdag.errors import ErrorKind, Failure
from agentdag.events import NodeSettled, Status
from agentdag.language.templates import Template, TemplateError
from agentdag.plan.files import is_within


def target_of(instance: Instance, path: Template) -> Path:
    """The file that the output of *instance* goes to; raises TemplateError where that is outside of the folder."""
    plan = instance.scope.plan
    name = path.render(instance.names())
    target = plan.path.parent / name
    if not name.strip() or not is_within(target, plan.path.parent, plan.allowed):
        raise TemplateError(f"`{name}` is outside the pipeline's folder; --allow-path allows others")
    return target


def saved(instance: Instance, settled: NodeSettled) -> NodeSettled:
    """*settled*, an end for which nobody had to act, with its output in its file; where that fails, it has failed."""
    path = instance.node.save
    if path is None or settled.status is not Status.SUCCEEDED or instance.scope.run.simulator is not None:
        return settled
    try:
        target = target_of(instance, path)
        if settled.parts is not None or settled.cached or not target.is_file():
            save(target, settled.output)
    except TemplateError as error:
        return replace(settled, status=Status.FAILED, error=Failure(ErrorKind.TEMPLATE, f"save: {error}"))
    except OSError as error:
        return replace(settled, status=Status.FAILED, error=unwritten(path, error))
    return settled


def unwritten(path: Template, error: OSError) -> Failure:
    """Why the file at *path* was not written."""
    return Failure(ErrorKind.SAVE, f"{path.text} cannot be written: {error.strerror or error}")


def save(target: Path, output: Any) -> None:
    """Write *output* to *target*: text as it is, anything else as JSON. Raises OSError."""
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False, indent=2) + "\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8", errors="surrogatepass", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
