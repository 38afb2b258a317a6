"""The command line: options, exit codes, and nothing that a command does not need.

Commands import what they use when they run, so that `--help` and `validate` load no SDK.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agentdag.cli.complete import explained_words, input_values, node_durations

STARTED = time.monotonic()
GARBAGE_EVERY = 200_000
"""New objects between two searches for garbage: what is read and imported is none, and makes up most of a command."""

app = typer.Typer(
    name="agentdag",
    help="Run pipelines of LLM agents declared in YAML: in parallel, along the critical path.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


@app.command(epilog="Example: agentdag run pipelines/due_diligence.yaml --simulate --time-scale 0.1")
def run(  # noqa: PLR0913 - one option each
    pipeline: Pipeline,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="An input; NAME=@FILE reads a file.",
            autocompletion=input_values,
        ),
    ] = None,
    inputs_file: Annotated[
        str | None, typer.Option("--inputs", metavar="FILE", help="A JSON object with inputs; - reads stdin.")
    ] = None,
    concurrency: Concurrency = None,
    schedule: ScheduleOption = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="The built-in simulator answers for every model; no key needed.")
    ] = False,
    time_scale: Annotated[
        float, typer.Option("--time-scale", metavar="X", help="With --simulate: scale every duration in the file.")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Makes the simulator's chance repeatable.")] = 0,
    output_format: Annotated[
        RunFormat, typer.Option("--format", help="Live table, plain lines, or one JSON event a line on stdout.")
    ] = RunFormat.auto,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the outputs here instead of to stdout.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell order, prompts, tokens, cost and time; make no call.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the outputs, and errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks, and what the SDKs log.")] = False,
    color: ColorOption = Color.auto,
    allow_path: AllowPath = None,
) -> None:
    """Run a pipeline: outputs go to stdout, everything else to stderr."""
    from agentdag.cli.run import RunArguments, run_pipeline
    from agentdag.session import Options

    options = Options(
        concurrency=concurrency,
        schedule=None if schedule is None else schedule.value,
        simulate=simulate,
        time_scale=time_scale,
        seed=seed,
    )
    arguments = RunArguments(
        pipeline=pipeline,
        inputs=inputs or [],
        inputs_file=inputs_file,
        options=options,
        format=output_format.value,
        output=output,
        dry_run=dry_run,
        quiet=quiet,
        debug=debug,
        color=color.value,
        allowed=tuple(allow_path or ()),
    )
    raise typer.Exit(run_pipeline(arguments, began=STARTED))


@app.command(epilog="Example: agentdag validate pipelines/ --strict --format github")
def validate(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Pipelines, or folders of them.")],
    output_format: Annotated[
        FindingFormat, typer.Option("--format", help="For people, for CI servers, or for other programs.")
    ] = FindingFormat.text,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail the check as errors do.")] = False,
    print_: Annotated[bool, typer.Option("--print", help="Print the pipeline as resolved, with all defaults.")] = False,
    color: ColorOption = Color.auto,
    allow_path: AllowPath = None,
) -> None:
    """Check pipelines without running them; every finding at once, exit 2 where there is an error."""
    from agentdag.cli.check import ValidateArguments, validate_paths

    if print_ and output_format is not FindingFormat.text:
        raise typer.BadParameter("--print and --format exclude each other")
    arguments = ValidateArguments(
        paths=paths,
        format=output_format.value,
        strict=strict,
        print=print_,
        color=color.value,
        allowed=tuple(allow_path or ()),
    )
    raise typer.Exit(validate_paths(arguments))


class GraphFormat(StrEnum):
    text = "text"
    json = "json"
    mermaid = "mermaid"
    dot = "dot"
    svg = "svg"


@app.command(epilog="Example: agentdag graph pipelines/due_diligence.yaml -c 2 --what-if financial=10s")
def graph(  # noqa: PLR0913 - one option each
    pipeline: Pipeline,
    output_format: Annotated[
        GraphFormat, typer.Option("--format", help="For people, for programs, or as a picture.")
    ] = GraphFormat.text,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            metavar="NODE=10s",
            help="What becomes of it if a node took that long.",
            autocompletion=node_durations,
        ),
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="What each second taken off a node is worth.")
    ] = False,
    concurrency: Concurrency = None,
    schedule: ScheduleOption = None,
    color: ColorOption = Color.auto,
    allow_path: AllowPath = None,
) -> None:
    """Show when each node runs, the critical path, the slack, how long the run takes, and what would shorten it."""
    from agentdag.cli.graph import GraphArguments, show_graph
    from agentdag.session import Options

    options = Options(concurrency=concurrency, schedule=None if schedule is None else schedule.value)
    arguments = GraphArguments(
        pipeline=pipeline,
        format=output_format.value,
        options=options,
        what_if=what_if or [],
        sensitivity=sensitivity,
        color=color.value,
        allowed=tuple(allow_path or ()),
    )
    raise typer.Exit(show_graph(arguments))


@app.command(epilog="Example: agentdag init my-pipeline")
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to put it; here by default.")] = Path(),
) -> None:
    """Write a pipeline to start from: commented, with a prompt file and what your editor needs. Asks nothing."""
    from agentdag.cli.init import init as write

    raise typer.Exit(write(folder))


@app.command(epilog="Example: agentdag schema > pipeline.schema.json")
def schema() -> None:
    """Print the JSON Schema (draft 7) by which editors complete and check pipelines."""
    from agentdag.cli.init import schema_text

    sys.stdout.write(schema_text())


@app.command(epilog="Example: agentdag explain AD501")
def explain(
    word: Annotated[
        str | None,
        typer.Argument(
            metavar="[WORD]",
            help="A key, status, event, error kind, code or exit code.",
            autocompletion=explained_words,
        ),
    ] = None,
) -> None:
    """Tell what a word means; without one, list all words."""
    from agentdag.cli.explain import explain as tell

    raise typer.Exit(tell(word))


def _version(asked: bool) -> None:
    if asked:
        from agentdag._version import __version__

        typer.echo(f"agentdag {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script; everything that is the user's to mend ends with a message and exit code 2."""
    from agentdag.errors import UsageError
    from agentdag.events import Exit

    gc.set_threshold(GARBAGE_EVERY)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115 - closed by whoever started us
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        app()
    except (UsageError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        what = "" if isinstance(error, UsageError) else "the output could not be written: "
        sys.stderr.write(f"error: {what}{error}\n")
        sys.exit(Exit.USAGE if isinstance(error, UsageError) else Exit.FAILED)
