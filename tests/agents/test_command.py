"""Programs: what they print, how they fail, and that nothing of them is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import is_gone
from program import agentdag as program
from program import interrupt, kill, started

import agentdag
from agentdag import ErrorKind, NodeSettled, Status
from agentdag.plan.plan import Plan
from agentdag.session.run import Session

Compile = Callable[[str], Plan]
PYTHON = json.dumps(sys.executable)


def run(plan: Compile, node: str, *, before: str = "") -> NodeSettled:
    return agentdag.run(plan(f"{before}\nnodes: {{a: {{{node}}}}}")).nodes["a"]


def code(text: str) -> str:
    """A command that runs *text* in Python."""
    return f"command: [{PYTHON}, -c, {json.dumps(text)}]"


def test_what_it_prints_is_its_output_without_the_last_line_end(plan: Compile) -> None:
    assert run(plan, code("print('one'); print('two ü')")).output == "one\ntwo ü"


def test_it_may_be_json_and_what_it_says_besides_is_kept(plan: Compile) -> None:
    text = "import sys; print('careful', file=sys.stderr); print('[1, 2]')"
    node = run(plan, f"{code(text)}, output: json")
    assert node.output == [1, 2]
    assert node.stderr == "careful\n"


def test_output_that_does_not_fit_is_an_error_and_is_not_tried_again(plan: Compile) -> None:
    node = run(plan, f"{code('print(1)')}, output: {{fields: {{a: number}}}}")
    assert node.error is not None
    assert node.error.kind is ErrorKind.INVALID_OUTPUT
    assert node.attempts == 1


def test_arguments_standard_input_and_environment_come_as_they_are(
    plan: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "token-0123456789")
    text = "import os, sys; print([sys.argv[1:], sys.stdin.read(), os.environ['SAID'], os.environ['KEY'][::-1]])"
    file = f"""
        inputs: {{said: {{}}}}
        nodes:
          a:
            command: [{PYTHON}, -c, {json.dumps(text)}, "{{{{ inputs.said }}}}", "$HOME; `ls`"]
            stdin: "{{{{ inputs.said }}}} ü"
            env: {{SAID: "{{{{ inputs.said }}}}", KEY: "${{A_TOKEN}}"}}
    """
    said = "'; rm -rf / ${A_TOKEN} {{ 1 }}"
    result = agentdag.run(plan(file), {"said": said})
    expected = [[said, "$HOME; `ls`"], f"{said} ü", said, "9876543210-nekot"]
    assert result.outputs["a"] == str(expected), result.nodes["a"].error


def test_an_exit_code_fails_the_node_with_the_last_words(plan: Compile) -> None:
    error = run(plan, code("import sys; print('no such table', file=sys.stderr); sys.exit(3)")).error
    assert error is not None
    assert (error.kind, error.message) == (ErrorKind.COMMAND, "ended with exit code 3: no such table")
    error = run(plan, code("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")).error
    assert error is not None
    assert error.message == "was killed by SIGSEGV"


def test_it_is_tried_again_only_where_the_file_says_so(plan: Compile, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    text = (
        f"import os, sys; p = {str(flag)!r}; sys.exit(0) if os.path.exists(p) else (open(p, 'w').close(), sys.exit(1))"
    )
    assert run(plan, code(text)).status is Status.FAILED
    flag.unlink()
    node = run(plan, f"{code(text)}, retry: {{retries: 1, delay: 1ms, on: [command]}}")
    assert (node.status, node.attempts) == (Status.SUCCEEDED, 2)


def test_one_that_is_not_there_is_told_before_the_run(plan: Compile) -> None:
    with pytest.raises(agentdag.UsageError, match="node `a` cannot run no-such-program-1"):
        run(plan, "command: [no-such-program-1]")
    with pytest.raises(agentdag.UsageError, match="there is no such file"):
        run(plan, "command: [./no-such-program-1]")
    with pytest.raises(agentdag.UsageError, match=r"\$\{NO_SUCH_VARIABLE\}"):
        run(plan, 'command: [ls], env: {A: "${NO_SUCH_VARIABLE}"}')


def test_it_runs_beside_the_pipeline_and_never_outside_unless_allowed(plan: Compile, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "tool.sh").write_text("#!/bin/sh\npwd\n")
    (tmp_path / "tool.sh").chmod(0o755)
    assert run(plan, "command: [./tool.sh]").output == str(tmp_path.resolve())
    assert run(plan, "command: [./tool.sh], cwd: inner").output == str(tmp_path.resolve() / "inner")
    file = 'inputs: {f: {}}\nnodes: {a: {command: [ls], cwd: "{{ inputs.f }}"}}'
    error = agentdag.run(plan(file), {"f": "../.."}).nodes["a"].error
    assert error is not None
    assert "outside the pipeline's folder" in error.message


def test_a_flood_is_cut_and_its_siblings_do_not_notice(plan: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentdag.agents.command.MAX_OUTPUT_BYTES", 2**20)
    flood = "import sys\nwhile True: sys.stdout.write('x' * 65536)"
    result = agentdag.run(plan(f"nodes: {{a: {{{code(flood)}}}, b: {{{code('print(1)')}}}}}"))
    error = result.nodes["a"].error
    assert error is not None
    assert "printed more than 1 MiB" in error.message
    assert result.nodes["b"].output == "1"


def test_words_on_the_error_stream_without_end_are_kept_only_at_their_end(plan: Compile) -> None:
    text = "import sys; sys.stderr.write('x' * 3_000_000); sys.stderr.write('the end')"
    node = run(plan, code(text))
    assert node.stderr is not None
    assert node.stderr.endswith("the end")
    assert len(node.stderr) == 16 * 2**10


CHILDREN = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
open(sys.argv[1] + '.part', 'w').write(f'{os.getpid()} {child.pid}')
os.rename(sys.argv[1] + '.part', sys.argv[1])
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


@pytest.mark.parametrize("stubborn", [False, True], ids=["willing", "stubborn"])
def test_a_timeout_kills_it_with_its_children(
    plan: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    monkeypatch.setattr("agentdag.agents.command.KILLED_AFTER_S", 0.5)
    pids = tmp_path / "pids"
    text = (STUBBORN if stubborn else "") + CHILDREN + "time.sleep(600)"
    node = run(plan, f"command: [{PYTHON}, -c, {json.dumps(text)}, {pids}], timeout: 3s")
    assert node.status is Status.TIMED_OUT
    assert all(is_gone(int(pid)) for pid in pids.read_text().split())


def test_children_that_outlive_it_are_ended_too(plan: Compile, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    node = run(plan, f"command: [{PYTHON}, -c, {json.dumps(CHILDREN + 'print(7)')}, {pids}]")
    assert node.output == "7", node.error
    assert all(is_gone(int(pid)) for pid in pids.read_text().split())


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, times: int) -> None:
    pids = tmp_path / "pids"
    text = (
        (STUBBORN if times == 2 else "")
        + CHILDREN
        + ("time.sleep(1); print('done')" if times == 1 else "time.sleep(600)")
    )
    (tmp_path / "p.yaml").write_text(
        f"nodes:\n  a: {{command: [{PYTHON}, -c, {json.dumps(text)}, {pids}]}}\n  b: {{command: [ls], needs: [a]}}\n"
    )
    process = started("run", "p.yaml", "--no-store", "--format", "plain", cwd=tmp_path)
    until = time.monotonic() + 30
    while not pids.exists():
        assert time.monotonic() < until
    interrupt(process)
    if times == 2:
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert all(is_gone(int(pid)) for pid in pids.read_text().split())


def test_a_resume_asks_before_it_runs_one_again(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    text = f"import os, time; open({str(ran)!r}, 'a').write('x'); time.sleep(0 if os.path.exists('go') else 600)"
    (tmp_path / "p.yaml").write_text(f"nodes: {{a: {{command: [{PYTHON}, -c, {json.dumps(text)}]}}}}")
    process = started("run", "p.yaml", cwd=tmp_path)
    until = time.monotonic() + 30
    while not ran.exists():
        assert time.monotonic() < until
    kill(process)
    done = program("resume", "last", cwd=tmp_path)
    assert done.returncode == 2
    assert "may have had an effect" in done.stderr
    (tmp_path / "go").touch()
    done = program("resume", "last", "--repeat", "a", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ran.read_text() == "xx"


def test_the_simulator_runs_no_program_unless_it_is_told_to(plan: Compile, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    act = f"command: [touch, {touched}]"
    file = f"nodes: {{a: {{{act}}}, b: {{command: [no-such-program-2], output: {{fields: {{n: integer}}}}}}}}"
    result = agentdag.run(plan(file), options=agentdag.Options(simulate=True, time_scale=0.001))
    assert result.ok, result.nodes
    assert not touched.exists()
    assert isinstance(result.outputs["b"]["n"], int)
    agentdag.run(plan(f"nodes: {{a: {{{act}, simulate: false}}}}"), options=agentdag.Options(simulate=True))
    assert touched.exists()


def test_a_cancelled_run_leaves_nothing_behind(plan: Compile, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    text = CHILDREN + "time.sleep(600)"
    compiled = plan(f"nodes: {{a: {{command: [{PYTHON}, -c, {json.dumps(text)}, {pids}]}}}}")

    async def main() -> None:
        task = asyncio.create_task(Session(compiled).run())
        while not pids.exists():  # noqa: ASYNC110 - see below
            await asyncio.sleep(0.01)  # another process makes it
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(main())
    assert all(is_gone(int(pid)) for pid in pids.read_text().split())


def test_secrets_do_not_leave_with_what_a_program_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "token-0123456789")
    text = "import os, sys; print(os.environ['KEY']); print(os.environ['KEY'], file=sys.stderr)"
    (tmp_path / "p.yaml").write_text(
        f"nodes: {{a: {{command: [{PYTHON}, -c, {json.dumps(text)}], env: {{KEY: '${{A_TOKEN}}'}}}}}}"
    )
    done = program("run", "p.yaml", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0
    shown = program("show", "last", "a", cwd=tmp_path)
    assert "token-0123456789" not in done.stdout + done.stderr + shown.stdout
    assert os.environ["A_TOKEN"] == "token-0123456789"
