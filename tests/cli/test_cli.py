"""The command line as a person and as CI use it: subprocesses, pipes, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PIPELINES
from program import AGENTDAG, FAST, agentdag
from wire import WireServer

SMALL = """
inputs: {n: {type: integer, default: 2}, who: {default: you}}
nodes:
  a: {prompt: "hi {{ inputs.who }}", model: openai/m, simulate: {output: "said {{ x }}"}}
  b: {call: "json:dumps", with: {obj: "{{ inputs.n }}"}}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    return file


def test_results_go_to_stdout_and_everything_else_to_stderr(small: Path) -> None:
    done = agentdag("run", str(small), *FAST)
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"a": "said {{ x }}", "b": "2"}
    assert "a   |" in done.stderr
    assert "succeeded  2 nodes: 2 succeeded" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_one_output_is_printed_as_it_is() -> None:
    done = agentdag("run", str(PIPELINES / "due_diligence.yaml"), *FAST)
    assert done.returncode == 0
    assert done.stdout.startswith("[claude-opus-4-5, simulated] summary was asked:")
    assert "critical path" in done.stderr


def test_json_gives_events_and_nothing_else(small: Path) -> None:
    done = agentdag("run", str(small), *FAST, "--format", "json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["type"] == "run.started"
    assert events[0].keys() >= {
        "run",
        "at",
        "pipeline",
        "nodes",
        "concurrency",
        "schedule",
        "time",
        "critical_path_s",
        "sequential_s",
    }
    finished = events[-1]
    assert finished["type"] == "run.finished"
    assert finished["exit_code"] == 0
    assert finished["nodes"] == {"succeeded": 2}
    assert finished["usage"].keys() >= {"input_tokens", "output_tokens", "cached_tokens", "cost_usd"}
    settled = [event for event in events if event["type"] == "node.settled"]
    assert {event["node"]: event["output"] for event in settled} == {"a": "said {{ x }}", "b": "2"}
    assert len({event["run"] for event in events}) == 1
    assert done.stderr == ""


def test_json_keeps_stdout_clean_of_what_functions_print(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("import sys\ndef f():\n    print('noise')\n    return 1\n")
    (tmp_path / "p.yaml").write_text("nodes: {a: {call: 'loud:f'}}")
    done = agentdag("run", "p.yaml", "--format", "json", cwd=tmp_path)
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()]
    assert "noise" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-i", "n=5"], "5"),
        (["--input", "n=5"], "5"),
        (["--inputs", "i.json"], "7"),
        (["--inputs", "i.json", "-i", "n=8"], "8"),
        (["-i", "n=@n.txt"], "9"),
    ],
)
def test_inputs_come_from_options_files_and_json(small: Path, arguments: list[str], expected: str) -> None:
    (small.parent / "i.json").write_text('{"n": 7}')
    (small.parent / "n.txt").write_text("9")
    done = agentdag("run", "small.yaml", *FAST, *arguments, cwd=small.parent)
    assert json.loads(done.stdout)["b"] == expected, done.stderr


def test_inputs_and_pipelines_come_from_stdin(small: Path) -> None:
    done = agentdag("run", str(small), *FAST, "--inputs", "-", stdin='{"n": 11}')
    assert json.loads(done.stdout)["b"] == "11"
    assert json.loads(agentdag("run", "-", *FAST, stdin=SMALL).stdout)["b"] == "2"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-i", "m=5"], "no input `m`"),
        (["-i", "n"], "NAME=VALUE"),
        (["-i", "n=x"], "of type integer, not the text 'x'"),
        (["-i", "n=@missing.txt"], "missing.txt"),
        (["--inputs", "missing.json"], "missing.json"),
        (["-c", "0"], "--concurrency"),
        (["--schedule", "lazy"], "lazy"),
        (["--time-scale", "-1"], "above 0"),
        (["--no-such-option"], "--no-such-option"),
        (["-o", "no/such/folder/x.json"], "does not exist"),
        (["--time-scale", "nan"], "above 0"),
        (["--time-scale", "inf"], "above 0"),
        (["-i", "who=@binary"], "not UTF-8"),
        (["--inputs", "deep"], "no JSON"),
        (["--inputs", "-", "-i", "who=@-"], "only once"),
    ],
)
def test_wrong_usage_is_told_and_ends_with_2(small: Path, arguments: list[str], words: str) -> None:
    (small.parent / "binary").write_bytes(b"\xff\x00")
    (small.parent / "deep").write_text("[" * 100_000)
    done = agentdag("run", "small.yaml", *FAST, *arguments, cwd=small.parent, NO_COLOR="1")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_missing_key_ends_with_2_and_no_call(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("nodes: {a: {prompt: hi, model: openai/m}}")
    done = agentdag("run", "p.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "OPENAI_API_KEY" in done.stderr
    assert "--simulate" in done.stderr


def test_a_broken_pipeline_ends_with_2_and_no_call(tmp_path: Path, wire: WireServer) -> None:
    text = f'providers: {{openai: {{base_url: "{wire.openai_url}"}}}}\nnodes: {{a: {{prompt: hi, model: openai/m}}, b: {{prompt: "{{{{ nodes.x.output }}}}", model: openai/m}}}}'
    (tmp_path / "p.yaml").write_text(text)
    for command in (["run", "p.yaml"], ["validate", "p.yaml"], ["graph", "p.yaml"]):
        done = agentdag(*command, cwd=tmp_path)
        assert done.returncode == 2
        assert "p.yaml:2:" in done.stdout + done.stderr
        assert "AD303" in done.stdout + done.stderr
    assert wire.calls == []


def test_a_failed_run_ends_with_1_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "nodes: {a: {prompt: hi, model: openai/m, retry: 0, simulate: {fail: [refused]}}, b: {prompt: '{{ nodes.a.output }}', model: openai/m}}"
    )
    done = agentdag("run", "p.yaml", *FAST, cwd=tmp_path)
    assert done.returncode == 1
    assert "a failed after" in done.stderr
    assert "refused: simulated refused in attempt 1" in done.stderr
    assert "b skipped: a failed" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("name", "check"), [("out.json", json.loads), ("out.txt", json.loads)])
def test_outputs_go_to_a_file_where_asked(small: Path, name: str, check: object) -> None:
    done = agentdag("run", "small.yaml", *FAST, "-o", name, cwd=small.parent)
    assert done.stdout == ""
    assert json.loads((small.parent / name).read_text()) == {"a": "said {{ x }}", "b": "2"}
    assert [path.name for path in small.parent.iterdir() if path.name.startswith(".")] == []


def test_an_output_file_is_written_as_a_shell_would(small: Path) -> None:
    folder = small.parent
    (folder / "target").write_text("old")
    (folder / "target").chmod(0o640)
    (folder / "link").symlink_to("target")
    assert agentdag("run", "small.yaml", *FAST, "-q", "-o", "link", cwd=folder).returncode == 0
    assert (folder / "link").is_symlink()
    assert json.loads((folder / "target").read_text())
    assert (folder / "target").stat().st_mode & 0o777 == 0o640
    os.mkfifo(folder / "pipe")
    with subprocess.Popen(["cat", "pipe"], cwd=folder, stdout=subprocess.PIPE, text=True) as reader:
        assert agentdag("run", "small.yaml", *FAST, "-q", "-o", "pipe", cwd=folder).returncode == 0
        assert reader.stdout is not None
        assert json.loads(reader.stdout.read())
    assert (folder / "pipe").is_fifo()
    assert agentdag("run", "small.yaml", *FAST, "-o", ".", cwd=folder).returncode == 2
    assert agentdag("run", "small.yaml", *FAST, "--format", "json", "-o", "out.json", cwd=folder).returncode == 0
    assert json.loads((folder / "out.json").read_text())


@pytest.mark.parametrize(
    "command", [["run", *FAST], ["run", *FAST, "--format", "json"], ["graph"], ["validate", "--format", "json"]]
)
def test_output_that_is_lost_is_no_success(small: Path, command: list[str]) -> None:
    line = f"{sys.executable} -m agentdag.cli {' '.join(command)} small.yaml > /dev/full"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=small.parent, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_streams_crash_nothing(small: Path) -> None:
    for closed in (">&-", "2>&-"):
        line = f"{sys.executable} -m agentdag.cli run small.yaml {' '.join(FAST)} {closed}"
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, cwd=small.parent, timeout=60, check=False
        )
        assert done.returncode == 0
        assert "Traceback" not in done.stderr


def test_quiet_says_nothing_but_the_outputs(small: Path) -> None:
    done = agentdag("run", str(small), *FAST, "--quiet")
    assert done.stderr == ""
    assert json.loads(done.stdout)


def test_a_reader_that_goes_away_does_not_end_the_run(small: Path) -> None:
    command = f"{sys.executable} -m agentdag.cli run {small} --simulate --time-scale 0.001 --format json | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    first, code = done.stdout.splitlines()
    assert json.loads(first)["type"] == "run.started"
    assert code == "0"
    assert done.stderr == ""


def test_an_ascii_locale_loses_nothing_and_crashes_nothing(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "name: 'naïve → \U0001f600'\nnodes: {a: {prompt: hi, model: openai/m, simulate: {output: 'é \U0001f600'}}}",
        encoding="utf-8",
    )
    env = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = agentdag("run", "p.yaml", *FAST, cwd=tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\\xe9 \\U0001f600\n"
    assert agentdag("graph", "p.yaml", cwd=tmp_path, **env).returncode == 0
    assert json.loads(
        agentdag("run", "p.yaml", *FAST, "--format", "json", cwd=tmp_path, **env).stdout.splitlines()[-1]
    )["outputs"] == {"a": "é \U0001f600"}


def test_lone_surrogates_and_nul_in_an_answer_crash_nothing(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text("def f(): return 'a\\ud800b\\x00c'\n")
    (tmp_path / "p.yaml").write_text(
        "nodes: {a: {call: 'odd:f'}, b: {prompt: '{{ nodes.a.output }}', model: openai/m}}\noutputs: {x: '{{ nodes.a.output }}'}"
    )
    done = agentdag("run", "p.yaml", *FAST, "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["outputs"]["x"] == "a\ud800b\x00c"
    assert agentdag("run", "p.yaml", *FAST, cwd=tmp_path).returncode == 0


def test_validate_checks_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("nodes: {a: {prompt: hi, model: openai/m}}")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "bad.yml").write_text("nodes: {a: {promt: hi, model: openai/m}}")
    done = agentdag("validate", ".", cwd=tmp_path)
    assert done.returncode == 2
    assert "deep/bad.yml:1:13: error[AD201]" in done.stdout
    assert "2 files checked: 1 error" in done.stderr
    told = json.loads(agentdag("validate", ".", "--format", "json", cwd=tmp_path).stdout)
    assert (told["files"], told["errors"]) == (2, 1)
    assert agentdag("validate", "good.yaml", cwd=tmp_path).returncode == 0
    (tmp_path / "empty").mkdir()
    assert agentdag("validate", "empty", cwd=tmp_path).returncode == 2
    assert "nothing.yaml:1:1" in agentdag("validate", "nothing.yaml", cwd=tmp_path).stdout


def test_files_outside_the_folder_need_leave(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "shared.md").write_text("hi")
    (tmp_path / "inner" / "p.yaml").write_text("nodes: {a: {prompt_file: ../shared.md, model: openai/m}}")
    assert "--allow-path" in agentdag("validate", "inner", cwd=tmp_path).stdout
    assert agentdag("validate", "inner", "--allow-path", ".", cwd=tmp_path).returncode == 0
    assert agentdag("run", "inner/p.yaml", *FAST, "--allow-path", ".", cwd=tmp_path).returncode == 0


def test_graph_prints_the_totals_for_the_cap_that_is_asked() -> None:
    done = agentdag("graph", str(PIPELINES / "due_diligence.yaml"), "-c", "1")
    assert "with 1 at once             170 s" in done.stdout
    told = json.loads(
        agentdag("graph", str(PIPELINES / "due_diligence.yaml"), "--schedule", "waves", "--format", "json").stdout
    )
    assert told["makespan_s"] == 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_gently_and_a_second_at_once(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "p.yaml").write_text("""
defaults: {model: openai/m}
nodes:
  done: {prompt: hi, expect: {latency: 1ms}}
  slow: {prompt: "{{ nodes.done.output }}", expect: {latency: 1h}}
""")
    process = subprocess.Popen(
        [*AGENTDAG, "run", "p.yaml", "--simulate", "--format", "json"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["type"] == "node.started" and event["node"] == "slow":
            break
    process.send_signal(number)
    assert "interrupted" in process.stderr.readline()
    process.send_signal(number)
    rest = [json.loads(line) for line in process.stdout]
    assert process.wait(10) == 128 + number
    assert {event["node"]: event["status"] for event in rest if event["type"] == "node.settled"} == {
        "slow": "cancelled"
    }
    assert rest[-1]["status"] == "interrupted"
    assert rest[-1]["exit_code"] == 128 + number
    process.stdout.close()
    process.stderr.close()


def test_what_is_finished_is_printed_when_a_run_does_not_get_to_its_outputs(tmp_path: Path) -> None:
    text = "nodes: {a: {prompt: hi, model: openai/m, simulate: {output: A}}, b: {prompt: '{{ nodes.a.output }}', model: openai/m, retry: 0, simulate: {fail: [auth]}}}\noutputs: {memo: '{{ nodes.b.output }}'}"
    (tmp_path / "p.yaml").write_text(text)
    done = agentdag("run", "p.yaml", *FAST, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "A\n"
    assert "output memo is null" in done.stderr


def test_the_canary_is_nowhere(tmp_path: Path, wire: WireServer) -> None:
    canary = "sk-canary-abcdef123456"
    wire.script = {"fail": [f"coded:400,,bad key {canary}"], "ok": ["echo_key"]}
    (tmp_path / "p.yaml").write_text(f"""
providers: {{openai: {{base_url: "{wire.openai_url}", api_key: "${{CANARY}}"}}}}
nodes:
  fail: {{prompt: hi, model: openai/fail}}
  ok: {{prompt: "{canary}", model: openai/ok}}
""")
    for extra in ([], ["--format", "json"], ["--debug"]):
        done = agentdag("run", "p.yaml", *extra, cwd=tmp_path, CANARY=canary)
        assert done.returncode == 1
        assert canary not in done.stdout + done.stderr, extra
    assert wire.calls[0].headers["Authorization"].endswith(canary)


def test_debug_shows_the_traceback_of_a_usage_error(small: Path) -> None:
    assert "Traceback" in agentdag("run", str(small), "--simulate", "-i", "x=1", "--debug").stderr
