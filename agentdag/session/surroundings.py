"""What a plan needs around it before any call: programs that are there, and schemas that code defines."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from agentdag.agents.answers import Reader, model_reader
from agentdag.agents.command import search_path
from agentdag.agents.function import load_module
from agentdag.errors import UsageError
from agentdag.plan.plan import Plan
from agentdag.plan.work import AS_IT_COMES, AS_TEXT, Answer, CommandWork


def readers_of(plan: Plan) -> dict[Answer, Reader]:
    """How the answers of *plan* are read that are more than text; raises UsageError where a model cannot be loaded."""
    readers: dict[Answer, Reader] = {}
    for name, within, node in plan.walk():
        answer = node.answer
        if answer in {AS_TEXT, AS_IT_COMES} or answer in readers:
            continue
        readers[answer] = Reader(answer.schema) if answer.model is None else _of_model(answer.model, name, within)
    return readers


def _of_model(name: str, node: str, plan: Plan) -> Reader:
    module, _, path = name.partition(":")
    try:
        model = load_module(module, plan.path.parent)
        for step in path.split("."):
            model = getattr(model, step)
        return Reader(*model_reader(model))  # type: ignore[arg-type]  # whether it is a model, pydantic says
    except (Exception, SystemExit) as error:
        raise UsageError(f"node `{node}` cannot use the schema {name}: {type(error).__name__}: {error}") from error


def check_mcp(server: str) -> None:
    """Raise UsageError where there is no SDK by which the MCP *server* could be spoken to."""
    if find_spec("mcp") is None:
        hint = f"install it: {sys.executable} -m pip install 'mcp>=2.3,<3'"
        raise UsageError(f"the tool `{server}` is an MCP server, and the package `mcp` is not installed", hint=hint)


def check_program(node: str, work: CommandWork, folder: Path) -> None:
    """Raise UsageError where the program of *work* is certainly not there."""
    program = work.argv[0]
    if program.reads:
        return
    name = program.render({})
    if "/" in name:
        path = (folder / name).resolve()
        if not path.is_file():
            raise UsageError(f"node `{node}` cannot run {name}: there is no such file", hint=f"looked for {path}")
    elif shutil.which(name, path=search_path()) is None:
        hint = "install it, or put its folder on PATH; --simulate runs no program"
        raise UsageError(f"node `{node}` cannot run {name}: there is no such program", hint=hint)
