"""The options that commands share, each said once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agentdag.cli.complete import input_values, run_ids


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
