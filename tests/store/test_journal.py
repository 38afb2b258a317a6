"""The database file: acknowledged rows are there, damaged ones do not count, and a file that is not ours is left alone."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentdag.calls import NO_USAGE, Usage
from agentdag.errors import StoreError
from agentdag.events import NodeSettled, NodeStarted, Status
from agentdag.store import journal as journal_module
from agentdag.store import schema
from agentdag.store.fold import RunRecord
from agentdag.store.history import History
from agentdag.store.journal import Journal
from agentdag.store.lease import Lease, is_live
from agentdag.store.log import Identity, Log
from agentdag.store.schema import FILE, MIGRATIONS, open_database
from agentdag.store.spill import Row, spill

Make = Callable[[], Journal]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    made: list[Journal] = []

    def make_() -> Journal:
        made.append(Journal(folder, "r1", lambda act: act()))
        return made[-1]

    yield make_
    for each in made:
        each.close()


def settled(node: str, output: object = "done") -> NodeSettled:
    return NodeSettled("r1", 1.0, node, Status.SUCCEEDED, 0.25, 1, "m", NO_USAGE, output, None, None, {})


def log_of(journal: Journal, clean: Callable[[str], str] = str) -> Log:
    run = Identity(id="r1", pipeline="p.yaml", started="2026-01-01", text="nodes: {}", inputs={}, options={})
    log = Log(journal, run, clean, past="p.yaml")
    log.begin(schema.digest((run.text,)))
    return log


def safe(log: Log) -> None:
    """Wait until everything so far is told to be safe."""
    told = threading.Event()
    log.fence(told.set)
    assert told.wait(30)


def record(folder: Path) -> RunRecord:
    history = History(folder)
    try:
        return history.record("r1")
    finally:
        history.close()


def test_what_is_acknowledged_is_there_for_a_fresh_reader(make: Make, folder: Path) -> None:
    log = log_of(make())
    log.commit(settled("a"), fingerprint="f")
    safe(log)
    found = record(folder).nodes["a"]
    assert found.ended == settled("a")
    assert found.answers == {"f": settled("a")}


def test_what_waits_together_is_one_transaction(make: Make, folder: Path) -> None:
    journal = make()
    log = log_of(journal)
    safe(log)
    commits = []
    journal._connection.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    other = sqlite3.connect(folder / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for number in range(500):
        log.commit(settled(f"n{number}"))
    other.execute("ROLLBACK")
    other.close()
    safe(log)
    assert 1 <= len(commits) <= 3


@pytest.mark.parametrize(
    "text",
    ["\ud800 lone", "a\x00b", "x" * 10_000_000, "\u2028é漢\U0001f600"],
    ids=["surrogate", "nul", "10 MB", "wide"],
)
def test_any_answer_is_kept_without_loss(text: str, make: Make, folder: Path) -> None:
    log = log_of(make())
    log.commit(settled("a", {"text": text}), fingerprint="f")
    safe(log)
    assert record(folder).nodes["a"].answers["f"].output == {"text": text}


def test_only_the_owner_may_read_it(make: Make, folder: Path) -> None:
    old = os.umask(0)
    try:
        safe(log_of(make()))
    finally:
        os.umask(old)
    for file in folder.glob("journal*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / ".gitignore").read_text() == "*\n"


def test_a_row_whose_hash_is_wrong_counts_as_not_done(make: Make, folder: Path) -> None:
    log = log_of(make())
    log.commit(settled("a"), fingerprint="f")
    log.commit(settled("b"), fingerprint="g")
    safe(log)
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("UPDATE entries SET body = replace(body, 'done', 'dune') WHERE node = 'a'")
    found = record(folder)
    assert "a" not in found.nodes
    assert found.nodes["b"].ended == settled("b")
    history = History(folder)
    assert history.answer("f") is None
    assert history.answer("g") == settled("b")
    history.close()


def test_a_damaged_beginning_is_told(make: Make, folder: Path) -> None:
    safe(log_of(make()))
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("UPDATE runs SET body = replace(body, '2026', '2027')")
    with pytest.raises(StoreError, match="damaged"):
        record(folder)


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to look" * 40, b"SQLite format 3\x00" + b"\xff" * 4000]
)
def test_a_file_that_is_no_database_is_left_as_it_is(content: bytes, folder: Path) -> None:
    folder.mkdir()
    (folder / FILE).write_bytes(content)
    with pytest.raises(StoreError, match="left as it is"):
        open_database(folder, create=True)
    assert (folder / FILE).read_bytes() == content


def test_another_programs_database_is_left_as_it_is(folder: Path) -> None:
    folder.mkdir()
    connection = sqlite3.connect(folder / FILE)
    connection.execute("CREATE TABLE theirs (a)")
    connection.commit()
    connection.close()
    before = (folder / FILE).read_bytes()
    with pytest.raises(StoreError, match="no journal of agentdag"):
        open_database(folder, create=True)
    assert (folder / FILE).read_bytes() == before


def test_a_truncated_file_is_told(make: Make, folder: Path) -> None:
    journal = make()
    log = log_of(journal)
    for number in range(200):
        log.commit(settled(f"n{number}", "x" * 1000))
    safe(log)
    journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = folder.parent / "copy"
    copy.mkdir()
    (copy / FILE).write_bytes((folder / FILE).read_bytes()[: 5 * 4096])
    with pytest.raises(StoreError):
        record(copy)


def test_a_newer_schema_is_refused_by_name(folder: Path) -> None:
    open_database(folder, create=True, migrations=(*MIGRATIONS, "CREATE TABLE later (a)")).close()
    with pytest.raises(StoreError, match=r"schema 2, written by agentdag .*with schema 1"):
        open_database(folder, create=True)


def test_an_older_schema_is_backed_up_and_brought_forward(make: Make, folder: Path) -> None:
    log = log_of(make())
    log.commit(settled("a"), fingerprint="f")
    safe(log)
    later = (*MIGRATIONS, "ALTER TABLE runs ADD COLUMN note TEXT")
    connection = open_database(folder, create=True, migrations=later)
    assert connection.execute("SELECT id, note FROM runs").fetchall() == [("r1", None)]
    connection.close()
    backup = sqlite3.connect(folder / "journal.schema-1.sqlite")
    assert backup.execute("PRAGMA user_version").fetchone() == (1,)
    assert backup.execute("SELECT count(*) FROM entries").fetchone() == (1,)
    backup.close()


def test_a_full_disk_is_tried_again_and_then_spilled_beside(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "FULL_S", 0.2)
    monkeypatch.setattr(journal_module, "AGAIN_EVERY_S", 0.05)
    journal = make()
    broke = threading.Event()
    journal.on_broken = broke.set
    log = log_of(journal)
    safe(log)
    (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")
    log.commit(settled("a", "x" * 100_000), fingerprint="f")
    log.commit(settled("b"), fingerprint="g")
    safe(log)
    assert broke.is_set()
    assert journal.broken is not None
    assert journal.spilled is not None
    assert journal.spilled.parent == folder
    assert stat.S_IMODE(journal.spilled.stat().st_mode) == 0o600
    assert record(folder).nodes["a"].answers["f"].output == "x" * 100_000
    assert record(folder).nodes["b"].ended == settled("b")
    assert not list(folder.glob("*.spill"))


def test_a_full_disk_that_has_room_again_loses_nothing(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make()
    log = log_of(journal)
    safe(log)
    (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")

    def make_room(_seconds: float) -> None:
        journal._connection.execute("PRAGMA max_page_count = 1000000")

    monkeypatch.setattr(journal_module.time, "sleep", make_room)
    log.commit(settled("a", "x" * 100_000))
    safe(log)
    assert journal.broken is None
    assert record(folder).nodes["a"].ended == settled("a", "x" * 100_000)


def test_a_spill_that_was_cut_off_gives_what_is_whole(make: Make, folder: Path) -> None:
    journal = make()
    log = log_of(journal)
    safe(log)
    rows = [row for name in "ab" for row in log._rows(ord(name), 1.0, settled(name), name, None)]
    path = spill(folder, "r1", rows, None)
    assert path == folder / "agentdag-r1.spill"
    path.write_bytes(path.read_bytes()[:-20])
    assert set(record(folder).nodes) == {"a"}
    assert not path.exists()


def test_a_spill_of_a_run_that_goes_on_is_left_to_it(make: Make, folder: Path) -> None:
    log = log_of(make())
    safe(log)
    rows = log._rows(9, 1.0, settled("a"), "a", None)
    path = spill(folder, "r1", rows, None)
    lease = Lease(folder, "r1")
    assert not record(folder).nodes
    lease.release()
    assert set(record(folder).nodes) == {"a"}
    assert path is not None
    assert not path.exists()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the temporary files go."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def test_where_the_folder_cannot_be_written_rows_go_among_the_temporary_files(
    make: Make, folder: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_of(make())
    safe(log)
    rows = log._rows(9, 1.0, settled("a"), "a", None)
    elsewhere = spill(tmp_path / "missing", "r1", rows, None)
    assert elsewhere == temporary / "agentdag-r1.spill"
    assert not record(folder).nodes, "it is of another store"
    elsewhere.write_bytes(elsewhere.read_bytes().replace(b"never", b"x"))
    elsewhere.unlink()
    monkeypatch.setattr("agentdag.store.spill.os.open", _fails_in(folder, os.open))
    again = spill(folder, "r1", rows, None)
    assert again == elsewhere
    assert set(record(folder).nodes) == {"a"}


def test_spills_of_other_people_are_left_to_them(
    make: Make, folder: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_of(make())
    safe(log)
    with monkeypatch.context() as patch:
        patch.setattr("agentdag.store.spill.os.open", _fails_in(folder, os.open))
        spill(folder, "r1", log._rows(9, 1.0, settled("a"), "a", None), None)
    (path,) = temporary.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("agentdag.store.spill.os.getuid", lambda: -1)
        assert not record(folder).nodes
    assert path.exists()
    assert set(record(folder).nodes) == {"a"}, "but for whose it is, it is as any other"


def _fails_in(folder: Path, open_: Callable[..., int]) -> Callable[..., int]:
    def open_elsewhere(path: Path, *arguments: int) -> int:
        if Path(path).parent == folder:
            raise OSError(28, "no space left on device")
        return open_(path, *arguments)

    return open_elsewhere


def test_a_count_that_no_database_takes_is_kept_all_the_same(make: Make, folder: Path) -> None:
    journal = make()
    log = log_of(journal)
    huge = replace(settled("a"), usage=Usage(10**25, 1, 0, None))
    log.commit(huge, fingerprint="f")
    safe(log)
    assert journal.broken is None
    assert record(folder).nodes["a"].ended == huge


def test_whatever_goes_wrong_in_the_writer_nobody_waits_for_ever(make: Make, folder: Path) -> None:
    journal = make()
    log = log_of(journal)
    safe(log)
    journal.append(lambda: [Row("entries", ("too", "few"))])
    log.commit(settled("a"), fingerprint="f")
    journal.append(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    safe(log)
    assert journal.broken is not None
    assert record(folder).nodes["a"].answers["f"] == settled("a")


def test_a_lock_of_another_program_is_waited_for(make: Make, folder: Path) -> None:
    log = log_of(make())
    safe(log)
    other = sqlite3.connect(folder / FILE, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    log.commit(settled("a"))
    threading.Timer(0.3, other.execute, ["ROLLBACK"]).start()
    safe(log)
    other.close()
    assert record(folder).nodes["a"].ended == settled("a")


def test_a_lock_that_does_not_end_is_as_a_full_disk(make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_S", 0.2)
    journal = make()
    log = log_of(journal)
    safe(log)
    other = sqlite3.connect(folder / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    log.commit(settled("a"), fingerprint="f")
    safe(log)
    other.execute("ROLLBACK")
    other.close()
    assert journal.broken is not None
    assert "locked" in str(journal.broken)
    make()
    assert record(folder).nodes["a"].answers["f"] == settled("a")


def test_secrets_are_taken_out_before_anything_is_written(make: Make, folder: Path) -> None:
    log = log_of(make(), lambda text: text.replace("sk-canary", "[secret]"))
    asks = {"choice": 0, "pass": 1, "parts": {}, "request": {"prompt": "sk-canary"}}
    log.commit(NodeStarted("r1", 0.0, "a", 0, 1, "m"), asks=asks)
    log.commit(settled("a", "it is sk-canary"), fingerprint="f")
    safe(log)
    assert record(folder).nodes["a"].answers["f"].output == "it is [secret]"
    assert not any(b"sk-canary" in file.read_bytes() for file in folder.glob("journal*"))


def test_a_lease_is_held_by_one_and_given_up_by_the_dead(folder: Path) -> None:
    folder.mkdir()
    code = f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\nfrom pathlib import Path\nfrom agentdag.store.lease import Lease\nLease(Path({str(folder)!r}), 'r1'); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    assert is_live(folder, "r1")
    with pytest.raises(StoreError, match=f"process {other.pid}"):
        Lease(folder, "r1")
    other.kill()
    other.communicate()
    assert not is_live(folder, "r1")
    mine = Lease(folder, "r1")
    assert is_live(folder, "r1")
    with pytest.raises(StoreError, match=f"process {os.getpid()}"):
        Lease(folder, "r1")
    assert is_live(folder, "r1"), "to ask does not drop the lock"
    mine.release()
    assert not is_live(folder, "r1")
    assert not (folder / "leases" / "r1").exists()
