"""Outputs in files: written whole or not at all, and never outside the pipeline's folder."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from agentdag.engine.scope import Instance
from agentdag.errors import ErrorKind, Failure
from agentdag.events import NodeSettled, Status
from agentdag.language.templates import Template, TemplateError
from agentdag.plan.files import is_within


def target_of(instance: Instance, path: Template) -> Path | Failure:
    """The file at *path* that the output of *instance* goes to, or why it goes nowhere."""
    plan = instance.scope.plan
    try:
        name = path.render(instance.names())
    except TemplateError as error:
        return Failure(ErrorKind.TEMPLATE, f"save: {error}")
    target = plan.path.parent / name
    if not name.strip() or not is_within(target, plan.path.parent, plan.allowed):
        return Failure(ErrorKind.SAVE, f"`{name}` is outside the pipeline's folder; --allow-path allows others")
    return target


def saved(instance: Instance, settled: NodeSettled) -> NodeSettled:
    """*settled*, an end for which nobody had to act, with its output in its file; where that fails, it has failed."""
    path = instance.node.save
    if path is None or settled.status is not Status.SUCCEEDED or instance.scope.run.simulator is not None:
        return settled
    target = target_of(instance, path)
    failure = target if isinstance(target, Failure) else None
    if isinstance(target, Path) and not _holds(target, settled.output):
        failure = save(target, settled.output)
    return settled if failure is None else replace(settled, status=Status.FAILED, error=failure)


def _text(output: Any) -> str:
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False, indent=2) + "\n"


def _holds(target: Path, output: Any) -> bool:
    """Whether that is in *target* already."""
    try:
        return target.read_bytes() == _text(output).encode("utf-8", "surrogatepass")
    except OSError:
        return False


def save(target: Path, output: Any) -> Failure | None:
    """Write *output* to *target*: text as it is, anything else as JSON. Returns why that could not be done."""
    beside = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("w", encoding="utf-8", errors="surrogatepass", newline="") as stream:
                stream.write(_text(output))
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        return Failure(ErrorKind.SAVE, f"{target} cannot be written: {error.strerror or error}")
    return None
