"""Batches and their store, where something goes wrong: killed, resumed, pruned, read by others; the real program."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import pytest
from program import agentdag, interrupt, kill, started
from wire import WireServer

HERE = {"AGENTDAG_STORE": ""}
MAIL = """
import pathlib, threading
def mail(n):
    log = pathlib.Path(__file__).with_name("sent")
    with log.open("a") as stream:
        stream.write(f"{n} ")
    if n == 3 and not log.with_name("go").exists():
        print("at work", flush=True)
        threading.Event().wait()
    return f"mailed {n}"
"""
FAILING = "retry: 0, simulate: {fail: [refused]}, "
MAILING = """
inputs: {n: {type: integer}}
limits: {concurrency: 1}
nodes:
  mail: {call: "post:mail", with: {n: "{{ inputs.n }}"}}
  memo: {RETRY model: simulated/m, prompt: "memo {{ needs.mail.output if needs.mail.ok }}", needs: [mail]}
"""


def rows(folder: Path, number: int) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps({"n": n}) + "\n" for n in range(1, number + 1)))


@pytest.mark.parametrize("answer", ["--repeat", "--skip"])
def test_what_is_decided_of_a_row_in_doubt_touches_no_other(answer: str, tmp_path: Path) -> None:
    (tmp_path / "post.py").write_text(MAIL)
    (tmp_path / "p.yaml").write_text(MAILING.replace("RETRY ", FAILING))
    rows(tmp_path, 4)
    process = started("run", "p.yaml", "--batch", "rows.jsonl", "-o", "out.jsonl", cwd=tmp_path, **HERE)
    assert process.stderr is not None
    assert "at work\n" in iter(process.stderr.readline, "")
    kill(process)
    (tmp_path / "go").touch()
    (tmp_path / "p.yaml").write_text(
        MAILING.replace("RETRY ", "").replace("[mail]}", "[mail], continue_on_failure: true}")
    )
    refused = agentdag("resume", "last", cwd=tmp_path, **HERE)
    assert (refused.returncode, f"{answer} mail" in refused.stderr) == (2, True)
    done = agentdag("resume", "last", answer, "mail", cwd=tmp_path, **HERE)
    sent = Counter((tmp_path / "sent").read_text().split())
    assert sent == Counter({"1": 1, "2": 1, "3": 2 if answer == "--repeat" else 1, "4": 1}), done.stderr


PROGRESSIVE = """
inputs: {n: {type: integer}}
limits: {concurrency: 8}
defaults: {model: simulated/m}
nodes:
  a: {expect: {latency: 5ms, tokens: 5}, prompt: "a {{ inputs.n }}"}
  b: {expect: {latency: 5ms, tokens: 5}, prompt: "b {{ inputs.n }}"}
  c: {expect: {latency: 5ms, tokens: 5}, prompt: "c {{ inputs.n }}"}
  x: {expect: {latency: 5ms, tokens: 5}, prompt: "x", simulate: {fail: [refused]}}
  y: {expect: {latency: 5ms, tokens: 5}, prompt: "{{ nodes.x.output }}", continue_on_failure: true}
  join:
    needs: [a, b, c]
    barrier: progressive
    prompt: "{% for x in needs.values() if x.ok %}{{ x.output }}{% endfor %}{{ previous }}"
outputs: {o: "{{ nodes.join.output }}"}
"""


def test_rows_with_progressive_joins_share_their_slots(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(PROGRESSIVE)
    rows(tmp_path, 200)
    done = agentdag("run", "p.yaml", "--batch", "rows.jsonl", "-o", "out.jsonl", cwd=tmp_path, **HERE)
    assert (done.returncode, "200 failed" in done.stderr) == (1, True), done.stderr
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 200


SLOW = "inputs: {n: {type: integer}}\nnodes:\n  a: {prompt: 'of {{ inputs.n }}', model: openai/slow}\n"


def wired(wire: WireServer, text: str) -> str:
    return f'providers: {{openai: {{base_url: "{wire.openai_url}", api_key: k}}}}\n{text}'


def test_a_row_of_a_batch_that_runs_is_left_to_it(wire: WireServer, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(wired(wire, SLOW))
    rows(tmp_path, 2)
    wire.script["slow"] = ["stall"]
    process = started("run", "p.yaml", "--batch", "rows.jsonl", "-o", "out.jsonl", cwd=tmp_path, **HERE)
    wire.await_calls(2)
    try:
        (line,) = json.loads(agentdag("runs", "--format", "json", cwd=tmp_path, **HERE).stdout)["runs"]
        refused = agentdag("resume", line["id"], cwd=tmp_path, **HERE)
        assert (refused.returncode, "is being run by process" in refused.stderr) == (4, True)
        row = agentdag("resume", f"{line['id']}.1", cwd=tmp_path, **HERE)
        assert (row.returncode, f"agentdag resume {line['id']}" in row.stderr) == (2, True)
    finally:
        kill(process)
    assert len(wire.calls) == 2


def test_runs_tell_how_a_batch_that_was_stopped_stands(wire: WireServer, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(wired(wire, SLOW.replace("nodes:", "limits: {concurrency: 1}\nnodes:")))
    rows(tmp_path, 40)
    wire.script["slow"] = ["ok", "ok", "stall"]
    process = started("run", "p.yaml", "--batch", "rows.jsonl", "-o", "out.jsonl", cwd=tmp_path, **HERE)
    wire.await_calls(3)
    interrupt(process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    (line,) = json.loads(agentdag("runs", "--format", "json", cwd=tmp_path, **HERE).stdout)["runs"]
    first = json.loads(agentdag("show", f"{line['id']}.1", "--format", "json", cwd=tmp_path, **HERE).stdout)
    assert (line["status"], line["rows"], line["started"]) == ("interrupted", 40, first["started"])


def test_a_file_given_to_all_rows_is_its_text_at_a_resume(wire: WireServer, tmp_path: Path) -> None:
    text = "inputs: {n: {type: integer}, doc: {type: file}}\nnodes:\n  a: {prompt: 'on {{ inputs.doc }}', model: openai/a}\n"
    (tmp_path / "p.yaml").write_text(wired(wire, text))
    (tmp_path / "doc.txt").write_text("hello")
    rows(tmp_path, 1)
    wire.script["a"] = ["400", "ok"]
    batch = ("run", "p.yaml", "--batch", "rows.jsonl", "-o", "out.jsonl", "-i", "doc=@doc.txt")
    assert agentdag(*batch, cwd=tmp_path, **HERE).returncode == 1
    done = agentdag("resume", "last", cwd=tmp_path, **HERE)
    assert done.returncode == 0, done.stderr
    assert [call.prompt for call in wire.calls] == ["on hello"] * 2


def test_a_batch_is_pruned_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("inputs: {n: {type: integer}}\nnodes:\n  a: {prompt: x, model: simulated/m}\n")
    rows(tmp_path, 3)
    agentdag(
        "run", "p.yaml", "--batch", "rows.jsonl", "--simulate", "--time-scale", "0.01", "-o", "o", cwd=tmp_path, **HERE
    )
    told = agentdag("runs", "prune", "--older-than", "1h", "--yes", cwd=tmp_path, **HERE).stderr
    assert "no run is that old" in told
    told = agentdag("runs", "prune", "--older-than", "0s", "--yes", cwd=tmp_path, **HERE).stderr
    assert "1 run removed" in told
    assert json.loads(agentdag("runs", "--format", "json", cwd=tmp_path, **HERE).stdout)["runs"] == []


def test_an_input_that_held_a_secret_is_asked_for_again(wire: WireServer, tmp_path: Path) -> None:
    head = (
        f'providers: {{openai: {{base_url: "{wire.openai_url}", api_key: k, headers: {{X-Tenant: "${{TENANT}}"}}}}}}\n'
    )
    text = "inputs: {company: {}}\nnodes:\n  a: {prompt: 'about {{ inputs.company }}', model: openai/a, retry: 0}\n"
    (tmp_path / "p.yaml").write_text(head + text)
    wire.script["a"] = ["400", "400", "ok"]
    environment = {**HERE, "TENANT": "acme-corp-0123"}
    agentdag("run", "p.yaml", "-i", "company=acme-corp-0123 Ltd", cwd=tmp_path, **environment)
    refused = agentdag("resume", "last", cwd=tmp_path, **environment)
    assert (refused.returncode, "-i company=" in refused.stderr) == (2, True)
    told = agentdag("resume", "last", "-i", "company=the [secret] one", cwd=tmp_path, **environment).stderr
    assert "held a secret" not in told
    done = agentdag("resume", "last", "-i", "company=acme-corp-0123 Ltd", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    whole = "about acme-corp-0123 Ltd"
    assert [call.prompt for call in wire.calls] == [whole, "about the [secret] one", whole]


def test_one_broken_store_hides_no_other(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.yaml").write_text(
            "nodes:\n  a: {prompt: x, model: simulated/m, expect: {latency: 1ms}}\n"
        )
        agentdag("run", "p.yaml", cwd=tmp_path / name, **HERE)
    (tmp_path / "bad" / ".agentdag" / "journal.sqlite").write_text("junk" * 2000)
    told = agentdag("runs", cwd=tmp_path, **HERE)
    assert (told.returncode, "p.yaml" in told.stdout, "warning: bad/" in told.stderr) == (0, True, True)
    pruned = agentdag("runs", "prune", "--older-than", "0s", "--yes", cwd=tmp_path, **HERE)
    assert "good/.agentdag: 1 run removed" in pruned.stderr
