"""The command line: options, exit codes, and nothing that a command does not need.

Commands import what they use when they run, so that `--help` and `validate` load no SDK.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from agentdag.cli.complete import explained_words, node_durations
from agentdag.cli.options import (
    AllowPath,
    BudgetOption,
    Cache,
    Color,
    ColorOption,
    Concurrency,
    Debug,
    FindingFormat,
    GraphFormat,
    HistoryFormat,
    HistoryOutput,
    Inputs,
    InputsFile,
    MaxFailures,
    NoStore,
    OutputFile,
    OutputFormat,
    Pipeline,
    Quiet,
    Record,
    Replay,
    Run,
    RunFormat,
    ScheduleOption,
    Seed,
    Select,
    Simulate,
    Store,
    TierOption,
    TimeScale,
    changes,
)

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


@app.command(epilog="Example: agentdag run pipelines/due_diligence.yaml --simulate --time-scale 0.1")
def run(  # noqa: PLR0913 - one option each
    pipeline: Pipeline,
    inputs: Inputs = None,
    inputs_file: InputsFile = None,
    concurrency: Concurrency = None,
    schedule: ScheduleOption = None,
    simulate: Simulate = False,
    time_scale: TimeScale = None,
    seed: Seed = None,
    select: Select = None,
    budget: BudgetOption = None,
    tier: TierOption = None,
    cache: Cache = False,
    record: Record = None,
    replay: Replay = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            "--batch", metavar="FILE", help="One run for each row of a JSON lines or CSV file; -o takes results."
        ),
    ] = None,
    max_failures: MaxFailures = None,
    output_format: OutputFormat = RunFormat.auto,
    output: OutputFile = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell order, prompts, tokens, cost and time; make no call.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
    color: ColorOption = Color.auto,
    allow_path: AllowPath = None,
    store: Store = None,
    no_store: NoStore = False,
) -> None:
    """Run a pipeline: outputs go to stdout, everything else to stderr."""
    from agentdag.cli.run import RunArguments, run_pipeline
    from agentdag.cli.watch import Shown
    from agentdag.session import Options

    options = Options(
        **changes(
            concurrency=concurrency,
            schedule=schedule,
            simulate=simulate,
            time_scale=time_scale,
            seed=seed,
            select=select,
            cache=cache,
            record=record,
            replay=replay,
            budget=budget,
            tiers=tier,
        )
    )
    arguments = RunArguments(
        pipeline=pipeline,
        inputs=inputs or [],
        inputs_file=inputs_file,
        options=options,
        shown=Shown(format=output_format.value, output=output, quiet=quiet, debug=debug, color=color.value),
        dry_run=dry_run,
        allowed=tuple(allow_path or ()),
        store=store,
        no_store=no_store,
        batch=batch,
        max_failures=max_failures,
    )
    raise typer.Exit(run_pipeline(arguments, began=STARTED))


@app.command(epilog="Example: agentdag resume last")
def resume(  # noqa: PLR0913 - one option each
    run: Run,
    inputs: Inputs = None,
    inputs_file: InputsFile = None,
    concurrency: Concurrency = None,
    schedule: ScheduleOption = None,
    repeat: Annotated[
        list[str] | None, typer.Option("--repeat", metavar="NODE", help="Run this node again, whatever is there of it.")
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="NODE", help="Do not run this node any more; others go on without it."),
    ] = None,
    time_scale: TimeScale = None,
    seed: Seed = None,
    select: Select = None,
    budget: BudgetOption = None,
    tier: TierOption = None,
    cache: Cache = False,
    record: Record = None,
    max_failures: MaxFailures = None,
    output_format: OutputFormat = RunFormat.auto,
    output: OutputFile = None,
    quiet: Quiet = False,
    debug: Debug = False,
    color: ColorOption = Color.auto,
    allow_path: AllowPath = None,
    store: Store = None,
) -> None:
    """Go on with a run that was interrupted, killed or failed: what was answered is kept, the rest is run."""
    from agentdag.cli.resume import ResumeArguments, resume_run
    from agentdag.cli.watch import Shown

    arguments = ResumeArguments(
        run=run,
        inputs=inputs or [],
        inputs_file=inputs_file,
        changes=changes(
            concurrency=concurrency,
            schedule=schedule,
            time_scale=time_scale,
            seed=seed,
            select=select,
            cache=cache,
            record=record,
            budget=budget,
            tiers=tier,
        ),
        max_failures=max_failures,
        repeat=frozenset(repeat or ()),
        skip=frozenset(skip or ()),
        shown=Shown(format=output_format.value, output=output, quiet=quiet, debug=debug, color=color.value),
        allowed=tuple(allow_path or ()),
        store=store,
    )
    raise typer.Exit(resume_run(arguments, began=STARTED))


@app.command(epilog="Example: agentdag pool prompts.jsonl -o answers.jsonl --model openai/gpt-5-mini -c 50")
def pool(  # noqa: PLR0913 - one option each
    rows: Annotated[
        Path,
        typer.Argument(metavar="FILE", help='JSON lines: {"prompt": ...} or a text each; or CSV with a header.'),
    ],
    model: Annotated[str, typer.Option("--model", "-m", metavar="PROVIDER/NAME", help="Whom to ask.")],
    output: OutputFile = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", metavar="N", min=1, help="How many may be asked at once.")
    ] = 8,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", metavar="TEMPLATE", help="What to ask: 'Summarise: {{ inputs.text }}' reads a row's `text`."
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="The system prompt.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", metavar="N", min=1, help="The longest answer.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="90s", help="Bounds one attempt; 10 m unless told.")
    ] = None,
    retry: Annotated[
        int | None, typer.Option("--retry", metavar="N", min=0, help="How often an attempt is repeated; 2 unless told.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option("--base-url", metavar="URL", help="A server of your own that speaks the protocol.")
    ] = None,
    rpm: Annotated[
        int | None, typer.Option("--rpm", metavar="N", min=1, help="Requests a minute; learned unless told.")
    ] = None,
    tpm: Annotated[
        int | None, typer.Option("--tpm", metavar="N", min=1, help="Tokens a minute; learned unless told.")
    ] = None,
    budget: BudgetOption = None,
    simulate: Simulate = False,
    time_scale: TimeScale = None,
    seed: Seed = None,
    cache: Cache = False,
    record: Record = None,
    replay: Replay = None,
    max_failures: MaxFailures = None,
    output_format: OutputFormat = RunFormat.auto,
    quiet: Quiet = False,
    debug: Debug = False,
    color: ColorOption = Color.auto,
    store: Store = None,
    no_store: NoStore = False,
) -> None:
    """Ask a model every prompt of a file: under the same limits, budget and journal as a run, no pipeline needed."""
    from agentdag.cli.pool import PoolArguments, run_pool
    from agentdag.cli.watch import Shown
    from agentdag.session import Options

    options = Options(
        **changes(
            simulate=simulate,
            time_scale=time_scale,
            seed=seed,
            cache=cache,
            record=record,
            replay=replay,
            budget=budget,
        )
    )
    asks = {"system": system, "max_tokens": max_tokens, "timeout": timeout, "retry": retry}
    limits = {"base_url": base_url, "rpm": rpm, "tpm": tpm}
    arguments = PoolArguments(
        rows=rows,
        model=model,
        prompt=prompt,
        limits={key: value for key, value in limits.items() if value is not None},
        asks={key: value for key, value in asks.items() if value is not None},
        concurrency=concurrency,
        options=options,
        shown=Shown(format=output_format.value, output=output, quiet=quiet, debug=debug, color=color.value),
        max_failures=max_failures,
        store=store,
        no_store=no_store,
    )
    raise typer.Exit(run_pool(arguments))


runs_app = typer.Typer(help="List what ran, the newest first.", invoke_without_command=True)
app.add_typer(runs_app, name="runs", epilog="Example: agentdag runs -p pipelines/due_diligence.yaml -n 5")


@runs_app.callback()
def runs(
    context: typer.Context,
    pipeline: Annotated[
        Path | None, typer.Option("--pipeline", "-p", metavar="PIPELINE", help="Only its runs.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="How many, at the most.")] = 20,
    output_format: HistoryOutput = HistoryFormat.text,
    store: Store = None,
) -> None:
    if context.invoked_subcommand is None:
        from agentdag.cli.runs import list_runs

        raise typer.Exit(list_runs(pipeline, limit=limit, as_json=output_format is HistoryFormat.json, store=store))


@runs_app.command(epilog="Example: agentdag runs prune --older-than 30d")
def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="Remove the runs that began longer ago, such as 30d.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    store: Store = None,
) -> None:
    """Remove old runs from the store, and give back the space. Runs that go on at this moment stay."""
    from agentdag.cli.runs import prune_runs

    raise typer.Exit(prune_runs(older_than, yes=yes, store=store))


@app.command(epilog="Example: agentdag show last summary")
def show(
    run: Run,
    node: Annotated[
        str | None, typer.Argument(metavar="[NODE]", help="One node: every attempt, its prompt and its answer.")
    ] = None,
    output_format: HistoryOutput = HistoryFormat.text,
    store: Store = None,
) -> None:
    """Show what happened in a run, or what one of its nodes was asked and what it answered."""
    from agentdag.cli.show import show_run

    raise typer.Exit(show_run(run, node, as_json=output_format is HistoryFormat.json, store=store))


@app.command(epilog="Example: agentdag stats pipelines/due_diligence.yaml")
def stats(
    pipeline: Pipeline,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Of the runs on the simulator, not of real ones.")
    ] = False,
    output_format: HistoryOutput = HistoryFormat.text,
    store: Store = None,
) -> None:
    """Tell of each node how long it takes, how often it fails, is late or times out, what it costs, and which timeout
    would suit it."""
    from agentdag.cli.stats import show_stats

    raise typer.Exit(show_stats(pipeline, simulated=simulate, as_json=output_format is HistoryFormat.json, store=store))


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


@app.command(epilog="Example: agentdag doctor pipelines/due_diligence.yaml --call")
def doctor(
    pipeline: Annotated[
        Path | None, typer.Argument(metavar="[PIPELINE]", help="Looks at what this one needs, too.")
    ] = None,
    call: Annotated[
        bool, typer.Option("--call", help="Ask each model once, in a few tokens, with the file's parameters.")
    ] = False,
    output_format: HistoryOutput = HistoryFormat.text,
    color: ColorOption = Color.auto,
    allow_path: AllowPath = None,
    store: Store = None,
) -> None:
    """Look at what a run needs, from keys and servers to MCP tools and the store; exit 1 where something is wrong."""
    from agentdag.cli.doctor import diagnose

    code = diagnose(
        pipeline,
        call=call,
        as_json=output_format is HistoryFormat.json,
        color=color.value,
        store=store,
        allowed=tuple(allow_path or ()),
    )
    raise typer.Exit(code)


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
    store: Store = None,
    no_store: NoStore = False,
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
        store=store,
        no_store=no_store,
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


def _end(code: object) -> None:
    """All is said: no interrupt comes between any more. Where a function of the user's does not stop, the process ends
    at once: else the interpreter would wait for it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the interpreter gives up its own handlers while it ends
    run = sys.modules.get("agentdag.session.run")
    if run is not None and run.has_left_tasks():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def main() -> None:
    """The console script; everything that is the user's to mend ends with a message and exit code 2."""
    from agentdag.errors import MendableError, StoreError
    from agentdag.events import Exit

    gc.set_threshold(GARBAGE_EVERY)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115 - closed by whoever started us
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        app()
    except SystemExit as ending:
        _end(ending.code)
        raise
    except (MendableError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        from agentdag.views.lines import OutputError

        what = "the output could not be written: " if isinstance(error, OutputError) else ""
        sys.stderr.write(f"error: {what}{error}\n")
        if isinstance(error, StoreError):
            sys.exit(Exit.STORE)
        sys.exit(Exit.USAGE if isinstance(error, MendableError) else Exit.FAILED)
