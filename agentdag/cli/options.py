"""The options that commands share, each said once."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from agentdag.cli.complete import input_values, run_ids
from agentdag.errors import UsageError
from agentdag.language.findings import did_you_mean


class Color(StrEnum):
    auto = "auto"
    always = "always"
    never = "never"


class RunFormat(StrEnum):
    auto = "auto"
    table = "table"
    plain = "plain"
    json = "json"


class FindingFormat(StrEnum):
    text = "text"
    json = "json"
    github = "github"
    sarif = "sarif"
    junit = "junit"


class GraphFormat(StrEnum):
    text = "text"
    json = "json"
    mermaid = "mermaid"
    dot = "dot"
    svg = "svg"


class HistoryFormat(StrEnum):
    text = "text"
    json = "json"


class ScheduleName(StrEnum):
    eager = "eager"
    waves = "waves"


Pipeline = Annotated[Path, typer.Argument(metavar="PIPELINE", help="The pipeline's YAML file, or - for stdin.")]
AllowPath = Annotated[
    list[Path] | None,
    typer.Option("--allow-path", metavar="DIR", help="A folder outside the pipeline's from which it may read files."),
]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", "-c", metavar="N", min=1, help="How many nodes may act at once.")
]
ScheduleOption = Annotated[
    ScheduleName | None, typer.Option("--schedule", help="Start nodes as soon as they can, or in lock-step waves.")
]
ColorOption = Annotated[Color, typer.Option("--color", help="Colour the output; auto obeys the terminal and NO_COLOR.")]
Simulate = Annotated[
    bool, typer.Option("--simulate", help="The built-in simulator answers for every model; no key needed.")
]
TimeScale = Annotated[
    float | None,
    typer.Option(
        "--time-scale",
        metavar="X",
        help="With --simulate: scale every duration in the file. With --replay: the recorded latencies too.",
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Makes the simulator's chance repeatable; 0 unless told.")
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select",
        metavar="NODE",
        help="Run only this node; +NODE with all it needs, NODE+ with all that needs it. "
        "What it reads besides is taken from the last run that asked the same.",
    ),
]
Record = Annotated[
    Path | None, typer.Option("--record", metavar="DIR", help="Write each exchange with a model to a file there.")
]
Replay = Annotated[
    Path | None,
    typer.Option("--replay", metavar="DIR", help="Answer from the files there, at once; no call is made."),
]
MaxFailures = Annotated[
    int | None,
    typer.Option("--max-failures", metavar="N", min=0, help="Of a batch: begin no more rows after N failed."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME=VALUE",
        help="An input; NAME=@FILE reads a file.",
        autocompletion=input_values,
    ),
]
InputsFile = Annotated[
    str | None, typer.Option("--inputs", metavar="FILE", help="A JSON object with inputs; - reads stdin.")
]
OutputFormat = Annotated[
    RunFormat, typer.Option("--format", help="Live table, plain lines, or one JSON event a line on stdout.")
]
OutputFile = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the outputs here instead of to stdout.")
]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="cost=2|tokens=100000",
        help="What may be spent, instead of what the file says of each; `none` for any amount. Of a batch: in all.",
    ),
]
TierOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tier",
        metavar="NAME=PROVIDER/MODEL",
        help="Another model for a tier; '*=simulated/fast' for every tier and model.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the outputs, and errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Tracebacks, and what the SDKs log.")]
Cache = Annotated[
    bool, typer.Option("--cache", help="Take every answer that an earlier run got to the same request, at no cost.")
]
Store = Annotated[
    Path | None,
    typer.Option(
        "--store", metavar="DIR", help="Where runs are kept; else $AGENTDAG_STORE, or .agentdag beside the pipeline."
    ),
]
NoStore = Annotated[bool, typer.Option("--no-store", help="Keep nothing, and go by nothing that was kept.")]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="The run's id, its beginning, or `last`.", autocompletion=run_ids)
]
HistoryOutput = Annotated[HistoryFormat, typer.Option("--format", help="For people, or for other programs.")]


def changes(  # noqa: PLR0913 - one option each
    *,
    concurrency: int | None = None,
    schedule: ScheduleName | None = None,
    simulate: bool = False,
    time_scale: float | None,
    seed: int | None,
    select: list[str] | None = None,
    cache: bool,
    record: Path | None,
    replay: Path | None = None,
    budget: list[str] | None = None,
    tiers: list[str] | None = None,
) -> dict[str, Any]:
    """The fields of `session.Options` that were typed; raises UsageError where one cannot be read."""
    typed = {
        "concurrency": concurrency,
        "schedule": None if schedule is None else schedule.value,
        "simulate": simulate or None,
        "time_scale": time_scale,
        "seed": seed,
        "select": tuple(select) if select else None,
        "cache": cache or None,
        "record": record,
        "replay": replay,
        "replay_pace": time_scale,
        "budget": _budget(budget) if budget else None,
        "tiers": dict(_pair(each, "--tier", "NAME=provider/model") for each in tiers) if tiers else None,
    }
    return {name: value for name, value in typed.items() if value is not None}


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(f"{option} {text!r} is not understood", hint=f"write {option} {form}")
    return name.strip(), value.strip()


def _budget(given: list[str]) -> dict[str, str]:
    """`cost` and `tokens`, as plain numbers in text."""
    said: dict[str, str] = {}
    for each in ",".join(given).split(","):
        name, value = _pair(each, "--budget", "cost=2, cost=none or --budget tokens=100000")
        if name not in {"cost", "tokens"}:
            hint = did_you_mean(name, ["cost", "tokens"]) or "write --budget cost=2 or --budget tokens=100000"
            raise UsageError(f"--budget {each}: a budget is of cost or of tokens, not of {name}", hint=hint)
        if value == "none":
            said[name] = value
            continue
        digits = value.lstrip("$").replace("_", "")
        try:
            amount = Decimal(digits)
        except InvalidOperation:
            amount = Decimal(-1)
        if not amount.is_finite() or amount < 0 or (name == "tokens" and amount != int(amount)):
            what = "an amount of USD, such as 1.50" if name == "cost" else "a whole number of tokens"
            raise UsageError(f"--budget {each}: {value} is not {what}, or none")
        said[name] = format(amount if name == "cost" else Decimal(int(amount)), "f")
    return said
