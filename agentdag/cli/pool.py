"""`pool`: a flat batch of prompts, run as the batch of a pipeline of one node that is written here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentdag.cli.batch import check_shown, watch_batch
from agentdag.cli.check import report
from agentdag.cli.watch import Shown
from agentdag.errors import UsageError
from agentdag.events import Exit
from agentdag.language.scalars import MODEL_NAME
from agentdag.language.templates import NODE_NAMES, Template
from agentdag.plan.compile import compile_text
from agentdag.providers.registry import provider_types
from agentdag.session import BatchSession, BatchSpec, Options, keeper_of
from agentdag.store.keeper import store_of
from agentdag.views.lines import writer
from agentdag.written import written

PIPELINE = Path("-")
"""Of the pipeline that is written here there is no file: a resume takes its text from the store."""
PROMPT = "{{ inputs.prompt }}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolArguments:
    """What was typed. *limits* are keys of the model's provider, *asks* keys of the one node."""

    rows: Path
    model: str
    prompt: str | None
    limits: Mapping[str, Any]
    asks: Mapping[str, Any]
    concurrency: int
    options: Options
    shown: Shown
    max_failures: int | None
    store: Path | None
    no_store: bool


def run_pool(arguments: PoolArguments) -> int:
    """Ask every row's prompt; the exit code."""
    if not MODEL_NAME.fullmatch(arguments.model):
        raise UsageError(f"--model {arguments.model} names no model", hint="write --model provider/name")
    compiled = compile_text(_pipeline(arguments), PIPELINE, provider_types=provider_types())
    if compiled.plan is None:
        report(compiled.findings, arguments.shown.color)
        return Exit.USAGE
    plan, shown = compiled.plan, arguments.shown
    check_shown(shown)
    session = BatchSession(
        plan,
        BatchSpec(rows=arguments.rows, output=shown.output, max_failures=arguments.max_failures),
        options=replace(arguments.options, stream=False),
        keeper=None if arguments.no_store else keeper_of(plan, store_of(plan.path, arguments.store, os.environ)),
        print_line=writer(sys.stdout),
    )
    return watch_batch(session, shown)


def _pipeline(arguments: PoolArguments) -> str:
    """The pipeline of one node, as YAML."""
    prompt = PROMPT if arguments.prompt is None else arguments.prompt
    provider = arguments.model.partition("/")[0]
    limits = dict(arguments.limits)
    if "base_url" in limits and provider not in provider_types():
        limits["type"] = "openai"
    read = Template(prompt, NODE_NAMES).reads
    inputs = dict.fromkeys(each.path[0] for each in read if each.root == "inputs" and each.path)
    whole: dict[str, Any] = {
        "version": 1,
        "name": arguments.rows.stem,
        "inputs": {name: {"type": "string"} for name in inputs},
        "providers": {provider: limits} if limits else {},
        "limits": {"concurrency": arguments.concurrency},
        "nodes": {"answer": {"model": arguments.model, **arguments.asks, "prompt": prompt}},
        "outputs": {"answer": "{{ nodes.answer.output }}"},
    }
    return written(whole)
