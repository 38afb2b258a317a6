"""Where runs are kept, and the keeping of one: its store opened, its lease held, its journal written.

A store stands in `.agentdag/` beside the pipeline; whoever looks for a run finds it from around there.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from agentdag.errors import StoreError, UsageError
from agentdag.store.fold import RunRecord
from agentdag.store.history import LAST, History, past_of
from agentdag.store.journal import Journal
from agentdag.store.lease import Lease
from agentdag.store.log import Identity, Log
from agentdag.store.schema import FILE, digest
from agentdag.store.spill import Row

FOLDER = ".agentdag"
VARIABLE = "AGENTDAG_STORE"
_DEPTH = 3
"""So many folders down a store is looked for."""


def store_of(pipeline: Path, given: Path | None, environment: Mapping[str, str]) -> Path:
    """The folder of the store for *pipeline*: as given, as the environment says, or beside the file."""
    named = given or (Path(environment[VARIABLE]) if environment.get(VARIABLE) else None)
    return named or pipeline.parent / FOLDER


def stores_around(given: Path | None, environment: Mapping[str, str], here: Path) -> Iterator[Path]:
    """The stores in which a run may be that was started around *here*: as given, else here, below, and above."""
    named = given or (Path(environment[VARIABLE]) if environment.get(VARIABLE) else None)
    if named is not None:
        yield named
        return
    for folder in (here, *_below(here, _DEPTH), *here.absolute().parents):
        if (folder / FOLDER / FILE).is_file():
            yield folder / FOLDER


def _below(folder: Path, depth: int) -> Iterator[Path]:
    if not depth:
        return
    with suppress(OSError):
        inside = sorted(each for each in folder.iterdir() if each.is_dir() and not each.is_symlink())
        for each in inside:
            if not each.name.startswith(".") and each.name != "node_modules":
                yield each
                yield from _below(each, depth - 1)


def key_of(folder: Path, pipeline: Path, name: str) -> str:
    """What the store calls a pipeline: where its file stands, seen from beside the store; standard input by name."""
    if str(pipeline) == "-":
        return f"-:{name}"
    key = os.path.relpath(pipeline.resolve(), folder.resolve().parent)
    return key.encode("utf-8", "backslashreplace").decode()  # a name may be no text at all


def find_run(stores: Iterator[Path], prefix: str) -> tuple[History, str]:
    """The one run whose id begins with *prefix* (or the `last` one), and its store, open.

    Raises UsageError where there is none, or more than one; StoreError where a store cannot be read.
    """
    looked: list[str] = []
    opened: list[History] = []
    found: dict[str, History] = {}
    chosen: History | None = None
    problem: StoreError | None = None
    try:
        for folder in stores:
            looked.append(str(folder))
            try:
                opened.append(History(folder))
                found |= dict.fromkeys(opened[-1].ids(prefix), opened[-1])
            except StoreError as error:
                problem = error
        exact = [prefix] if prefix in found else list(found)
        if prefix == LAST and found:
            exact = [max(found)]  # an id begins with the time
        if len(exact) == 1:
            chosen = found[exact[0]]
            return chosen, exact[0]
    finally:
        for history in opened:
            if history is not chosen:
                history.close()
    if found:
        raise UsageError(f"{len(found)} runs begin with {prefix}: {', '.join(exact[:5])}", hint="write more of the id")
    if problem is not None:
        raise problem
    where = f"in {', '.join(looked)}" if looked else "here, in no store around"
    raise UsageError(
        f"there is no run {prefix} {where}", hint="`agentdag runs` lists them; --store DIR looks elsewhere"
    )


class Keeper:
    """The store that *history* reads, for a run of *pipeline*: a new one, or that of *record*, which goes on."""

    def __init__(self, history: History, pipeline: str, record: RunRecord | None = None) -> None:
        self.history = history
        self.folder = history.folder
        self.pipeline = pipeline
        self.record = record
        self.journal: Journal | None = None
        self._texts: dict[str, str] = {}
        """Pipelines that are on record, by their text."""
        self._lease: Lease | None = None

    def begin(
        self, run: Identity, clean: Callable[[str], str], record: RunRecord | None = None, *, simulated: bool
    ) -> Log:
        """Hold the lease of *run*, and write what it becomes; with *record* one that goes on."""
        name = run.batch or run.id
        past = past_of(self.pipeline, simulated=simulated)
        loop = asyncio.get_running_loop()

        def post(act: Callable[[], None]) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(act)

        if self.journal is None:
            try:
                self._lease = Lease(self.folder, name)
            except OSError as error:
                raise StoreError(f"the store {self.folder} cannot be written: {error.strerror or error}") from error
            self.journal = Journal(self.folder, name, post, loop.call_soon)
        if record is not None:
            if self.history.reached(run.id) != (record.seq, record.lives):
                raise StoreError(f"{run.id} has gone on meanwhile", hint="see `agentdag runs`, and resume it again")
            log = Log(self.journal, run, clean, life=record.lives + 1, seq=record.seq, past=past)
            log.go_on(self._kept(run.text, clean), record.given)
            return log
        log = Log(self.journal, run, clean, past=past)
        log.begin(self._kept(run.text, clean))
        return log

    def _kept(self, text: str, clean: Callable[[str], str]) -> str:
        """The digest of *text*, which is written once, however many runs have it."""
        if text not in self._texts:
            assert self.journal is not None
            name = self._texts[text] = digest((text,))
            self.journal.append(lambda: (Row("texts", (name, clean(json.dumps(text)))),))
        return self._texts[text]

    def end(self) -> None:
        """Everything is written, and nobody runs it any more."""
        if self.journal is not None:
            self.journal.close()
        if self._lease is not None:
            self._lease.release()
        self.history.close()
