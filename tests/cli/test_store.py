"""The store as its owner sees it: killed runs that go on, history, batches, recordings; through the real program."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from collections import Counter
from pathlib import Path

import pexpect
import pytest
from program import AGENTDAG, FAST, agentdag, keyless, kill, started
from wire import ANSWER, WireServer

HERE = {"AGENTDAG_STORE": ""}
"""The store stands beside the pipeline."""
KEY = "sk-canary-0123456789"
SIMULATED = """
inputs: {topic: {default: rivers}}
nodes:
  a: {prompt: "About {{ inputs.topic }}", model: simulated/m, expect: {latency: 10ms}}
  b: {prompt: "More than {{ nodes.a.output }}", model: simulated/m, expect: {latency: 10ms}}
outputs: {text: "{{ nodes.b.output }}"}
"""


def wired(wire: WireServer, nodes: str, top: str = "") -> str:
    """A pipeline whose models answer on the wire."""
    return f'providers: {{openai: {{base_url: "{wire.openai_url}", api_key: "${{CANARY}}"}}}}\n{top}\nnodes:\n{nodes}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "p.yaml").write_text(SIMULATED)
    return tmp_path


def run_id(folder: Path) -> str:
    listed = json.loads(agentdag("runs", "--format", "json", cwd=folder, **HERE).stdout)["runs"]
    assert isinstance(listed[0]["id"], str)
    return str(listed[0]["id"])


def test_a_run_is_on_record_beside_its_pipeline(folder: Path) -> None:
    inner = folder / "deep" / "er"
    inner.mkdir(parents=True)
    (folder / "p.yaml").rename(inner / "p.yaml")
    assert agentdag("run", "deep/er/p.yaml", cwd=folder, **HERE).returncode == 0
    assert (inner / ".agentdag" / "journal.sqlite").is_file()
    assert not (inner / ".agentdag" / "leases").exists() or not list((inner / ".agentdag" / "leases").iterdir())
    for where in (folder, inner, inner.parent):
        (line,) = json.loads(agentdag("runs", "--format", "json", cwd=where, **HERE).stdout)["runs"]
        assert (line["pipeline"], line["status"], line["mode"]) == ("p.yaml", "succeeded", "real")


def test_no_store_keeps_nothing(folder: Path) -> None:
    assert agentdag("run", "p.yaml", "--no-store", cwd=folder, **HERE).returncode == 0
    assert not (folder / ".agentdag").exists()
    assert "--store DIR" in agentdag("runs", cwd=folder, **HERE).stderr
    refused = agentdag("run", "p.yaml", "--no-store", "--cache", cwd=folder, **HERE)
    assert refused.returncode == 2


def test_a_killed_run_goes_on_without_a_repeated_call(wire: WireServer, tmp_path: Path) -> None:
    nodes = (
        "  a: {prompt: one, model: openai/a}\n"
        "  b: {prompt: two, model: openai/b}\n"
        '  c: {prompt: "{{ nodes.a.output }}", model: openai/slow}\n'
        '  d: {prompt: "{{ nodes.b.output }} {{ nodes.c.output }}", model: openai/d}\n'
    )
    wire.script["slow"] = ["stall", "ok"]
    (tmp_path / "p.yaml").write_text(wired(wire, nodes))
    process = started("run", "p.yaml", "--format", "json", cwd=tmp_path, CANARY=KEY, **HERE)
    assert process.stdout is not None
    settled = set()
    while settled < {"a", "b"}:
        event = json.loads(process.stdout.readline())
        settled |= {event["node"]} if event["type"] == "node.settled" else set()
    wire.await_calls(1, "slow")
    kill(process)
    told = agentdag("runs", cwd=tmp_path, **HERE).stdout
    assert "interrupted" in told, "nothing is ever stuck at running"
    done = agentdag("resume", "last", cwd=tmp_path, CANARY=KEY, **HERE)
    assert done.returncode == 0, done.stderr
    assert "in doubt: c was in mid-call, maybe billed," in done.stderr
    assert Counter(call.body["model"] for call in wire.calls) == {"a": 1, "b": 1, "slow": 2, "d": 1}
    assert done.stdout.strip() == ANSWER
    kept = b"".join(file.read_bytes() for file in (tmp_path / ".agentdag").rglob("*") if file.is_file())
    assert KEY.encode() not in kept


def test_sigint_prints_the_line_to_resume_which_works(wire: WireServer, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        wired(wire, "  a: {prompt: one, model: openai/a}\n  b: {prompt: two, model: openai/slow, needs: [a]}\n")
    )
    wire.script["slow"] = ["stall", "ok"]
    process = started("run", "p.yaml", "--format", "plain", cwd=tmp_path, CANARY=KEY, **HERE)
    assert process.stderr is not None
    for line in process.stderr:
        if "started (openai/slow)" in line:
            break
    process.send_signal(signal.SIGINT)
    assert "interrupted" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 130
    (command,) = re.findall(r"^resume  agentdag (.*)$", rest, re.MULTILINE)
    done = agentdag(*command.split(), cwd=tmp_path, CANARY=KEY, **HERE)
    assert done.returncode == 0, done.stderr
    assert wire.count("a") == 1


def test_a_second_resume_at_once_is_refused_and_makes_no_call(wire: WireServer, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(wired(wire, "  a: {prompt: one, model: openai/slow}\n"))
    wire.script["slow"] = ["stall"]
    process = started("run", "p.yaml", "--format", "plain", cwd=tmp_path, CANARY=KEY, **HERE)
    assert process.stderr is not None
    for line in process.stderr:
        if "started (openai/slow)" in line:
            break
    try:
        second = agentdag("resume", "last", cwd=tmp_path, CANARY=KEY, **HERE)
        assert second.returncode == 4
        assert f"is being run by process {process.pid}" in second.stderr
        assert "running" in agentdag("runs", cwd=tmp_path, **HERE).stdout
    finally:
        kill(process)
    assert len(wire.calls) == 1


FUNCTION = """
import pathlib, threading
def post():
    log = pathlib.Path(__file__).with_name("posted")
    with log.open("a") as stream:
        stream.write("posted\\n")
    if not log.with_name("go").exists():
        print("at work", flush=True)
        threading.Event().wait()
    return "done"
"""
POSTING = 'nodes:\n  post: {call: "poster:post"}\n  after: {call: "html:escape", with: {s: "x"}, needs: [post]}\n'


@pytest.fixture
def in_doubt(tmp_path: Path) -> Path:
    """A run that was killed while a function was at work."""
    (tmp_path / "poster.py").write_text(FUNCTION)
    (tmp_path / "p.yaml").write_text(POSTING)
    process = started("run", "p.yaml", cwd=tmp_path, **HERE)
    assert process.stderr is not None
    assert "at work\n" in iter(process.stderr.readline, "")
    kill(process)
    (tmp_path / "go").touch()
    return tmp_path


def posted(folder: Path) -> int:
    return (folder / "posted").read_text().count("posted")


def test_a_function_in_doubt_is_not_repeated_blindly(in_doubt: Path) -> None:
    refused = agentdag("resume", "last", cwd=in_doubt, **HERE)
    assert refused.returncode == 2
    assert "--repeat post" in refused.stderr
    assert posted(in_doubt) == 1
    skipped = agentdag("resume", "last", "--skip", "post", cwd=in_doubt, **HERE)
    assert (skipped.returncode, posted(in_doubt)) == (0, 1), skipped.stderr
    repeated = agentdag("resume", "last", "--repeat", "post", cwd=in_doubt, **HERE)
    assert (repeated.returncode, posted(in_doubt)) == (0, 2), repeated.stderr


def test_idempotent_says_that_it_may_be_repeated(in_doubt: Path) -> None:
    (in_doubt / "p.yaml").write_text(POSTING.replace('"poster:post"', '"poster:post", idempotent: true'))
    done = agentdag("resume", "last", cwd=in_doubt, **HERE)
    assert (done.returncode, posted(in_doubt)) == (0, 2), done.stderr


@pytest.mark.parametrize(("answer", "code", "calls"), [("y", 0, 2), ("s", 0, 1), ("q", 2, 1)])
def test_at_a_terminal_it_is_asked(answer: str, code: int, calls: int, in_doubt: Path) -> None:
    child = pexpect.spawn(
        AGENTDAG[0],
        [*AGENTDAG[1:], "resume", "last", "--format", "plain"],
        cwd=str(in_doubt),
        env=keyless(**HERE),
        timeout=30,
    )
    child.expect("Do it again")
    child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert (child.exitstatus, posted(in_doubt)) == (code, calls)


def test_show_tells_what_was_asked_and_what_came(wire: WireServer, tmp_path: Path) -> None:
    wire.script["flaky"] = ["500", "ok"]
    nodes = '  a: {prompt: "Say \\u001b[31mhello", system: Be brief., model: openai/flaky, max_tokens: 9, retry: {delay: 1ms}}\n'
    (tmp_path / "p.yaml").write_text(wired(wire, nodes))
    assert agentdag("run", "p.yaml", cwd=tmp_path, CANARY=KEY, **HERE).returncode == 0
    told = agentdag("show", "last", "a", cwd=tmp_path, **HERE).stdout
    for words in (
        "asked openai/flaky",
        '{"max_tokens": 9}',
        "Be brief.",
        "hello",
        "attempt 1 at",
        "server:",
        "attempt 2 at",
        "answered after",
        ANSWER,
    ):
        assert words in told
    assert "\x1b" not in told
    plain = json.loads(agentdag("show", "last", "a", "--format", "json", cwd=tmp_path, **HERE).stdout)
    (request,) = plain["requests"]
    assert request["request"] == {
        "model": "openai/flaky",
        "system": "Be brief.",
        "prompt": "Say \x1b[31mhello",
        "parameters": {"max_tokens": 9},
    }
    assert [attempt["error"] and attempt["error"]["kind"] for attempt in request["attempts"]] == ["server", None]
    assert plain["settled"]["output"] == ANSWER
    assert plain["settled"]["usage"]["input_tokens"] == 40
    whole = agentdag("show", "last", cwd=tmp_path, **HERE).stdout
    assert re.search(r"^a +succeeded +openai/flaky +2 ", whole, re.MULTILINE)
    unknown = agentdag("show", "last", "zz", cwd=tmp_path, **HERE)
    assert (unknown.returncode, "it has a" in unknown.stderr) == (2, True)


def test_a_run_is_found_by_the_beginning_of_its_id(folder: Path) -> None:
    for _ in range(2):
        agentdag("run", "p.yaml", cwd=folder, **HERE)
    name = run_id(folder)
    assert name in agentdag("show", name[:-1], cwd=folder, **HERE).stdout
    both = agentdag("show", name[:4], cwd=folder, **HERE)
    assert (both.returncode, "2 runs begin with" in both.stderr) == (2, True)
    none = agentdag("resume", "nothing", cwd=folder, **HERE)
    assert (none.returncode, "there is no run nothing" in none.stderr) == (2, True)


def test_stats_suggest_a_timeout_once_enough_is_recorded(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("{}\n" * 20)
    assert agentdag("run", "p.yaml", "--batch", "rows.jsonl", "-o", "out.jsonl", cwd=folder, **HERE).returncode == 0
    stats = json.loads(agentdag("stats", "p.yaml", "--format", "json", cwd=folder, **HERE).stdout)
    first, second = stats["nodes"]
    assert (first["id"], second["id"], first["runs"], first["statuses"]) == ("a", "b", 20, {"succeeded": 20})
    assert first["suggested_timeout_s"] == pytest.approx(1.5 * first["p95_s"])
    assert 0.01 <= first["p50_s"] <= first["p95_s"]
    told = agentdag("stats", "p.yaml", cwd=folder, **HERE).stdout
    assert "would suit it (1.5 x p95), which is 10m now" in told
    drawn = json.loads(agentdag("graph", "p.yaml", "--format", "json", cwd=folder, **HERE).stdout)
    assert drawn["nodes"][0]["duration_s"] == pytest.approx(first["p50_s"], abs=1e-6)
    by_file = json.loads(agentdag("graph", "p.yaml", "--format", "json", "--no-store", cwd=folder, **HERE).stdout)
    assert by_file["nodes"][0]["duration_s"] == 0.01


def test_simulated_runs_are_experience_of_their_own(folder: Path) -> None:
    agentdag("run", "p.yaml", *FAST, cwd=folder, **HERE)
    assert "--simulate tells" in agentdag("stats", "p.yaml", cwd=folder, **HERE).stderr
    assert "a " in agentdag("stats", "p.yaml", "--simulate", cwd=folder, **HERE).stdout
    assert "simulated" in agentdag("runs", cwd=folder, **HERE).stdout


def test_prune_removes_what_is_old(folder: Path) -> None:
    for _ in range(2):
        agentdag("run", "p.yaml", cwd=folder, **HERE)
    name = run_id(folder)
    with sqlite3.connect(folder / ".agentdag" / "journal.sqlite") as connection:
        connection.execute("UPDATE runs SET time = time - 86400 * 40 WHERE id = ?", (name,))
    asked = agentdag("runs", "prune", "--older-than", "30d", cwd=folder, **HERE)
    assert (asked.returncode, "--yes" in asked.stderr) == (2, True)
    done = agentdag("runs", "prune", "--older-than", "30d", "--yes", cwd=folder, **HERE)
    assert "1 run removed" in done.stderr
    assert name not in agentdag("runs", cwd=folder, **HERE).stdout
    with sqlite3.connect(folder / ".agentdag" / "journal.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM entries WHERE run = ?", (name,)).fetchone() == (0,)


@pytest.mark.parametrize("make", ["file", "foreign", "corrupt", "newer", "unwritable"])
def test_a_store_that_cannot_be_used_ends_with_4_before_any_call(make: str, wire: WireServer, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(wired(wire, "  a: {prompt: one, model: openai/a}\n"))
    store = tmp_path / ".agentdag"
    if make == "file":
        store.write_text("not a folder")
    else:
        store.mkdir()
        database = store / "journal.sqlite"
        if make == "corrupt":
            database.write_bytes(b"SQLite format 3\x00" + b"\x00\xff" * 3000)
        elif make in {"foreign", "newer"}:
            with sqlite3.connect(database) as connection:
                connection.execute("CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT)")
                connection.execute("INSERT INTO about VALUES ('agentdag', '99.0')")
                if make == "newer":
                    connection.execute(f"PRAGMA application_id = {0x61676467}")
                    connection.execute("PRAGMA user_version = 99")
        else:
            store.chmod(0o500)
    root = make == "unwritable" and os.geteuid() == 0  # who may write everywhere but there
    where = {"AGENTDAG_STORE": "/proc/agentdag"} if root else HERE
    done = agentdag("run", "p.yaml", cwd=tmp_path, CANARY=KEY, **where)
    assert done.returncode == 4, done.stderr
    assert "--store DIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert wire.calls == []
    if make == "newer":
        assert "written by agentdag 99.0" in done.stderr


def test_a_select_of_one_node_reads_the_rest_from_the_last_run(wire: WireServer, tmp_path: Path) -> None:
    nodes = '  a: {prompt: one, model: openai/a}\n  b: {prompt: "{{ nodes.a.output }}", model: openai/b}\n'
    (tmp_path / "p.yaml").write_text(wired(wire, nodes))
    early = agentdag("run", "p.yaml", "--select", "b", cwd=tmp_path, CANARY=KEY, **HERE)
    assert (early.returncode, "select +a to run it too" in early.stderr, wire.calls) == (2, True, [])
    agentdag("run", "p.yaml", cwd=tmp_path, CANARY=KEY, **HERE)
    again = agentdag("run", "p.yaml", "--select", "b", cwd=tmp_path, CANARY=KEY, **HERE)
    assert (again.returncode, again.stdout.strip()) == (0, ANSWER)
    assert (wire.count("a"), wire.count("b")) == (1, 2)
    nothing = agentdag("run", "p.yaml", "--select", "bb", cwd=tmp_path, CANARY=KEY, **HERE)
    assert (nothing.returncode, "did you mean" in nothing.stderr) == (2, True)


def test_what_is_recorded_is_replayed_without_a_key_or_a_call(wire: WireServer, tmp_path: Path) -> None:
    wire.script["flaky"] = ["429:retry-after=0", "echo_key"]
    nodes = (
        '  a: {prompt: "the key is ' + KEY + '", model: openai/flaky, retry: {delay: 1ms}}\n'
        '  b: {prompt: "{{ nodes.a.output }}", model: openai/b, system: "two\\nlines"}\n'
    )
    (tmp_path / "p.yaml").write_text(wired(wire, nodes))
    first = agentdag("run", "p.yaml", "--record", "tapes", "--format", "plain", cwd=tmp_path, CANARY=KEY, **HERE)
    assert first.returncode == 0, first.stderr
    files = sorted(file.name for file in (tmp_path / "tapes").iterdir())
    assert len(files) == 3, "one an exchange, the failed one too"
    assert KEY not in "".join((tmp_path / "tapes" / name).read_text() for name in files)
    asked = len(wire.calls)
    again = agentdag("run", "p.yaml", "--replay", "tapes", cwd=tmp_path, CANARY=KEY, **HERE)
    assert (again.returncode, again.stdout, len(wire.calls)) == (0, first.stdout, asked), again.stderr
    assert "attempt 1 failed" in again.stderr
    assert agentdag("validate", ".", cwd=tmp_path).returncode == 0, "recordings are no pipelines"
    (tmp_path / "p.yaml").write_text(wired(wire, nodes.replace("two", "three")))
    other = agentdag("run", "p.yaml", "--replay", "tapes", cwd=tmp_path, CANARY=KEY, **HERE)
    assert other.returncode == 1
    assert "it was recorded with another system" in other.stderr
    assert "1 recording not asked for" in other.stderr
    assert len(wire.calls) == asked


def test_an_answer_in_a_recording_may_be_corrected_by_hand(folder: Path) -> None:
    agentdag("run", "p.yaml", "--record", "tapes", cwd=folder, **HERE)
    (tape,) = (folder / "tapes").glob("b.*")
    text = tape.read_text()
    tape.write_text(re.sub(r"(?s)text:.*?\n  usage", "text: by hand\n  usage", text))
    done = agentdag("run", "p.yaml", "--replay", "tapes", cwd=folder, **HERE)
    assert done.stdout.strip() == "by hand"
    tape.write_text("reply: {text: [")
    broken = agentdag("run", "p.yaml", "--replay", "tapes", cwd=folder, **HERE)
    assert (broken.returncode, "cannot be read" in broken.stderr, "Traceback" in broken.stderr) == (1, True, False)
    missing = agentdag("run", "p.yaml", "--replay", "nowhere", cwd=folder, **HERE)
    assert (missing.returncode, "no such folder" in missing.stderr) == (2, True)


def rows_in(path: Path) -> dict[int, dict[str, object]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["row"] for line in lines}) == len(lines), "one line a row"
    return {line["row"]: line for line in lines}


def test_a_batch_runs_every_row_and_says_which_failed(wire: WireServer, tmp_path: Path) -> None:
    wire.script["flaky"] = ["ok", "400", "ok"]
    text = wired(
        wire,
        '  a: {prompt: "{{ inputs.n }} of {{ inputs.of }}", model: openai/flaky}\n',
        "inputs: {n: {type: integer}, of: {}}\nlimits: {concurrency: 1}",
    )
    (tmp_path / "p.yaml").write_text(text)
    (tmp_path / "rows.csv").write_text("\ufeffn,x-note\n1,one\n2,two\n3,three\n")
    done = agentdag(
        "run", "p.yaml", "--batch", "rows.csv", "-i", "of=3", "-o", "out.jsonl", cwd=tmp_path, CANARY=KEY, **HERE
    )
    assert done.returncode == 1
    rows = rows_in(tmp_path / "out.jsonl")
    assert [rows[number]["status"] for number in (1, 2, 3)] == ["succeeded", "failed", "succeeded"]
    assert rows[1]["outputs"] == {"a": ANSWER}
    assert rows[2]["errors"]["a"]["kind"] == "bad_request"
    assert rows[1]["usage"]["input_tokens"] == 40
    assert [call.prompt for call in wire.calls] == ["1 of 3", "2 of 3", "3 of 3"]
    assert "2 of 3 rows succeeded, 1 failed" in done.stderr
    again = agentdag("resume", "last", cwd=tmp_path, CANARY=KEY, **HERE)
    assert again.returncode == 0, again.stderr
    assert [call.prompt for call in wire.calls[3:]] == ["2 of 3"]
    rows = rows_in(tmp_path / "out.jsonl")
    assert [rows[number]["status"] for number in (1, 2, 3)] == ["succeeded"] * 3
    assert "3 rows" in agentdag("runs", cwd=tmp_path, **HERE).stdout


def test_wrong_rows_are_told_before_any_call(wire: WireServer, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        wired(wire, '  a: {prompt: "{{ inputs.n }}", model: openai/a}\n', "inputs: {n: {type: integer}}")
    )
    for name, text, words in (
        ("a.jsonl", '{"n": 1}\n{"n": "two"}\n{"m": 3}\n', "row 2: the input `n` is of type integer"),
        ("b.jsonl", '{"n": 1}\n{"n": \n', "b.jsonl:2 is no JSON"),
        ("c.csv", "n\n1\n2,3\n", "not as many cells"),
        ("d.jsonl", "\n", "has no rows"),
        ("e.jsonl", None, "cannot read"),
        ("f.csv", "n,n\n1,2\n", "two columns `n`"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        done = agentdag("run", "p.yaml", "--batch", name, cwd=tmp_path, CANARY=KEY, **HERE)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
    assert wire.calls == []


def test_a_killed_batch_goes_on_and_asks_no_row_twice_that_was_answered(wire: WireServer, tmp_path: Path) -> None:
    text = wired(
        wire,
        '  a: {prompt: "row {{ inputs.n }}", model: openai/a}\n',
        "inputs: {n: {type: integer}}\nlimits: {concurrency: 3}",
    )
    (tmp_path / "p.yaml").write_text(text)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"n": number}) + "\n" for number in range(1, 31)))
    wire.script["a"] = [*["ok"] * 12, "stall", "stall", "stall", "ok"]
    process = started(
        "run", "p.yaml", "--batch", "rows.jsonl", "-o", "out.jsonl", "--format", "json",
        cwd=tmp_path, CANARY=KEY, **HERE,
    )  # fmt: skip
    assert process.stdout is not None
    settled = 0
    while settled < 12:
        settled += json.loads(process.stdout.readline())["type"] == "node.settled"
    wire.await_calls(15)
    kill(process)
    with (tmp_path / "out.jsonl").open("a") as stream:
        stream.write('{"row": 99, "sta')
    done = agentdag("resume", "last", cwd=tmp_path, CANARY=KEY, **HERE)
    assert done.returncode == 0, done.stderr
    assert set(rows_in(tmp_path / "out.jsonl")) == set(range(1, 31))
    asked = Counter(call.prompt for call in wire.calls)
    assert set(asked) == {f"row {number}" for number in range(1, 31)}
    assert sum(asked.values()) == 33, "the three that were in flight, and no other"


def test_max_failures_begins_no_more_rows(wire: WireServer, tmp_path: Path) -> None:
    wire.script["a"] = ["400"]
    text = wired(
        wire,
        '  a: {prompt: "{{ inputs.n }}", model: openai/a}\n',
        "inputs: {n: {type: integer}}\nlimits: {concurrency: 1}",
    )
    (tmp_path / "p.yaml").write_text(text)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"n": number}) + "\n" for number in range(50)))
    done = agentdag("run", "p.yaml", "--batch", "rows.jsonl", "--max-failures", "2", cwd=tmp_path, CANARY=KEY, **HERE)
    assert done.returncode == 1
    assert 3 <= len(wire.calls) <= 7, "those that had begun may end"
    assert "more than 2 rows failed" in done.stderr
    assert len(done.stdout.splitlines()) == len(wire.calls)


def test_the_slots_of_a_batch_are_always_full(wire: WireServer, tmp_path: Path) -> None:
    wire.latency_s = 0.05
    nodes = '  a: {prompt: "{{ inputs.n }}", model: openai/a}\n  b: {prompt: "{{ nodes.a.output }}", model: openai/b}\n'
    (tmp_path / "p.yaml").write_text(wired(wire, nodes, "inputs: {n: {type: integer}}\nlimits: {concurrency: 4}"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"n": number}) + "\n" for number in range(20)))
    done = agentdag("run", "p.yaml", "--batch", "rows.jsonl", "-o", "out.jsonl", cwd=tmp_path, CANARY=KEY, **HERE)
    assert done.returncode == 0, done.stderr
    assert wire.peak == 4


def test_a_pipeline_from_stdin_can_go_on(tmp_path: Path) -> None:
    failing = SIMULATED.replace("nodes:", "defaults: {retry: 0}\nnodes:").replace(
        'b: {prompt: "More', 'b: {simulate: {fail: [refused]}, prompt: "More'
    )
    first = agentdag("run", "-", "--simulate", "--time-scale", "0.01", cwd=tmp_path, stdin=failing, **HERE)
    assert first.returncode == 1, first.stderr
    again = agentdag("resume", "last", cwd=tmp_path, **HERE)
    assert "kept: succeeded" in again.stderr


def test_results_never_overwrite_the_rows(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("{}\n")
    done = agentdag("run", "p.yaml", "--batch", "rows.jsonl", "-o", "rows.jsonl", cwd=folder, **HERE)
    assert (done.returncode, "the file of the rows" in done.stderr) == (2, True)
    assert (folder / "rows.jsonl").read_text() == "{}\n"
    os.mkfifo(folder / "pipe.jsonl")
    piped = agentdag("run", "p.yaml", "--batch", "pipe.jsonl", cwd=folder, **HERE)
    assert (piped.returncode, "no regular file" in piped.stderr) == (2, True)


def test_results_that_cannot_be_written_are_told_and_not_lost(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("{}\n" * 3)
    full = agentdag("run", "p.yaml", "--batch", "rows.jsonl", "-o", "/dev/full", cwd=folder, **HERE)
    assert full.returncode == 1
    assert "the results could not be written: No space left" in full.stderr
    again = agentdag("resume", "last", "-o", "out.jsonl", cwd=folder, **HERE)
    assert again.returncode == 0, again.stderr
    assert set(rows_in(folder / "out.jsonl")) == {1, 2, 3}


def test_a_changed_row_has_one_line_and_a_row_that_went_has_none(folder: Path) -> None:
    (folder / "rows.csv").write_text("topic\na\nb\nc\n")
    agentdag("run", "p.yaml", "--batch", "rows.csv", "-o", "out.jsonl", cwd=folder, **HERE)
    before = rows_in(folder / "out.jsonl")
    (folder / "rows.csv").write_text("topic\na\nbb\n")
    done = agentdag("resume", "last", cwd=folder, **HERE)
    assert done.returncode == 0, done.stderr
    after = rows_in(folder / "out.jsonl")
    assert set(after) == {1, 2}
    assert after[1] == before[1]
    assert after[2]["outputs"] != before[2]["outputs"]


def test_what_timed_out_and_odd_characters_are_replayed(tmp_path: Path) -> None:
    text = """
inputs: {t: {default: "lone \\ud83d, trailing  \\n\\ttab \\0 nul"}}
nodes:
  a: {prompt: "{{ inputs.t }}", model: simulated/m, timeout: 100ms, retry: {retries: 9, delay: 1ms},
      expect: {latency: 95ms}, simulate: {jitter: 0.9}}
"""
    (tmp_path / "p.yaml").write_text(text.replace('"lone \\ud83d, trailing  \\n\\ttab \\0 nul"', "x"))
    (tmp_path / "in.json").write_text('{"t": "lone \\ud83d, trailing  \\n\\ttab \\u0000 nul"}')
    for seed in range(3):
        tapes = f"tapes{seed}"
        first = agentdag(
            "run", "p.yaml", "--inputs", "in.json", "--seed", str(seed), "--record", tapes, cwd=tmp_path, **HERE
        )
        assert first.returncode == 0, first.stderr
        again = agentdag("run", "p.yaml", "--inputs", "in.json", "--replay", tapes, cwd=tmp_path, **HERE)
        assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr


def test_what_was_changed_at_a_resume_holds_at_the_next(wire: WireServer, tmp_path: Path) -> None:
    nodes = (
        '  a: {prompt: "on {{ inputs.t }}", model: openai/a}\n  b: {prompt: "{{ nodes.a.output }}", model: openai/b}\n'
    )
    (tmp_path / "p.yaml").write_text(wired(wire, nodes, "inputs: {t: {}}\ndefaults: {retry: 0}"))
    wire.script["b"] = ["400", "400", "ok"]
    assert agentdag("run", "p.yaml", "-i", "t=rivers", cwd=tmp_path, CANARY=KEY, **HERE).returncode == 1
    assert agentdag("resume", "last", "-i", "t=lakes", cwd=tmp_path, CANARY=KEY, **HERE).returncode == 1
    done = agentdag("resume", "last", cwd=tmp_path, CANARY=KEY, **HERE)
    assert done.returncode == 0, done.stderr
    assert [call.prompt for call in wire.calls if call.body["model"] == "a"] == ["on rivers", "on lakes"]
    shown = json.loads(agentdag("show", "last", "--format", "json", cwd=tmp_path, **HERE).stdout)
    assert (shown["inputs"], shown["lives"]) == ({"t": "lakes"}, 3)


def test_a_changed_row_that_was_run_is_not_run_again(wire: WireServer, tmp_path: Path) -> None:
    text = wired(wire, '  a: {prompt: "{{ inputs.n }} {{ inputs.of }}", model: openai/a}\n', "inputs: {n: {}, of: {}}")
    (tmp_path / "p.yaml").write_text(text)
    (tmp_path / "rows.csv").write_text("n\none\ntwo\n")
    batch = ("run", "p.yaml", "--batch", "rows.csv", "-o", "out.jsonl", "-i", "of=a")
    assert agentdag(*batch, cwd=tmp_path, CANARY=KEY, **HERE).returncode == 0
    (tmp_path / "rows.csv").write_text("n\none\nzwei\n")
    for _ in range(2):
        again = agentdag("resume", "last", cwd=tmp_path, CANARY=KEY, **HERE)
        assert again.returncode == 0, again.stderr
    assert [call.prompt for call in wire.calls[2:]] == ["zwei a"]
    for more in (("-i", "of=b"), ()):
        again = agentdag("resume", "last", *more, cwd=tmp_path, CANARY=KEY, **HERE)
        assert again.returncode == 0, again.stderr
    assert sorted(call.prompt for call in wire.calls[3:]) == ["one b", "zwei b"]


def test_a_resume_takes_the_options_of_a_run(wire: WireServer, tmp_path: Path) -> None:
    wire.script["a"] = ["400"]
    (tmp_path / "p.yaml").write_text(
        wired(wire, '  a: {prompt: "{{ inputs.n }}", model: openai/a}\n', "inputs: {n: {}}\nlimits: {concurrency: 1}")
    )
    (tmp_path / "rows.csv").write_text("n\n" + "x\n" * 20)
    agentdag("run", "p.yaml", "--batch", "rows.csv", "--max-failures", "0", cwd=tmp_path, CANARY=KEY, **HERE)
    wire.script["a"] = ["ok"]
    done = agentdag(
        "resume", "last", "--record", "rec", "--max-failures", "3", "-o", "o", cwd=tmp_path, CANARY=KEY, **HERE
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "rec").iterdir())) >= 15
    agentdag("run", "p.yaml", "-i", "n=1", cwd=tmp_path, CANARY=KEY, **HERE)
    refused = agentdag("resume", "last", "--max-failures", "3", cwd=tmp_path, CANARY=KEY, **HERE)
    assert (refused.returncode, "is a single run" in refused.stderr) == (2, True)


def test_show_of_a_batch_tells_its_rows(folder: Path) -> None:
    failing = SIMULATED.replace("nodes:", "defaults: {retry: 0}\nnodes:")
    failing = failing.replace("b: {prompt:", "b: {simulate: {fail: [refused]}, prompt:")
    (folder / "p.yaml").write_text(failing)
    (folder / "rows.csv").write_text("topic\na\nb\n")
    assert agentdag("run", "p.yaml", "--batch", "rows.csv", "-o", "out.jsonl", cwd=folder, **HERE).returncode == 1
    told = agentdag("show", "last", cwd=folder, **HERE).stdout
    assert "batch of 2 rows, 2 failed" in told
    assert "row 1: b: refused: " in told
    (command,) = re.findall(r"^one row: agentdag (.*)$", told, re.MULTILINE)
    assert "refused" in agentdag(*command.split(), cwd=folder, **HERE).stdout
    rows = json.loads(agentdag("show", "last", "--format", "json", cwd=folder, **HERE).stdout)["rows"]
    assert [(row["row"], row["status"]) for row in rows] == [(1, "failed"), (2, "failed")]
    of_all = agentdag("show", "last", "b", cwd=folder, **HERE)
    assert (of_all.returncode, "name a row of it" in of_all.stderr) == (2, True)
