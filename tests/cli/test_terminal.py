"""The live table in a real pseudo-terminal, read back through a terminal emulator."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte
from conftest import PIPELINES

SYNC = re.compile(r"\x1b\[\?2026[hl]")


class Terminal:
    """A program in a pseudo-terminal and the screen that its user would see."""

    def __init__(self, arguments: list[str], cwd: Path, columns: int = 80, lines: int = 24, **environment: str) -> None:
        env = {**os.environ, "TERM": "xterm-256color", **environment}
        env.pop("NO_COLOR", None)
        env |= environment
        self.screen = pyte.HistoryScreen(columns, lines, history=1000)
        self.stream = pyte.Stream(self.screen)
        self.raw = ""
        self.child = pexpect.spawn(
            sys.executable, ["-m", "agentdag.cli", *arguments], cwd=str(cwd), dimensions=(lines, columns),
            encoding="utf-8", env=env, timeout=30,
        )  # fmt: skip

    def read(self) -> bool:
        """Take in what came; False when the program has ended."""
        try:
            text = self.child.read_nonblocking(65536, timeout=20)
        except pexpect.EOF:
            self.child.wait()
            return False
        self.raw += text
        self.stream.feed(SYNC.sub("", text))
        return True

    def until(self, condition: Callable[[str], bool]) -> str:
        """Read until the screen fulfils *condition*."""
        deadline = time.monotonic() + 30
        while not condition(self.text()):
            assert time.monotonic() < deadline, self.text()
            if not self.read():
                break
        assert condition(self.text()), self.text()
        return self.text()

    def finish(self) -> str:
        while self.read():
            pass
        return self.text()

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def everything(self) -> str:
        """What scrolled away and what is on the screen."""
        gone = ["".join(line[x].data for x in range(self.screen.columns)).rstrip() for line in self.screen.history.top]
        return "\n".join([*gone, self.text()])

    def resize(self, columns: int, lines: int) -> None:
        self.child.setwinsize(lines, columns)
        self.screen.resize(lines, columns)


def pipeline(tmp_path: Path, nodes: str) -> list[str]:
    (tmp_path / "p.yaml").write_text("name: shown\ndefaults: {model: anthropic/claude-haiku-4-5}\nnodes:\n" + nodes)
    return ["run", "p.yaml", "--simulate"]


def test_the_table_shows_what_runs_and_ends_as_text_that_stays(tmp_path: Path) -> None:
    terminal = Terminal(["run", str(PIPELINES / "due_diligence.yaml"), "--simulate", "--time-scale", "0.03"], tmp_path)
    shown = terminal.until(lambda text: "▸ 1    financial  running" in text)
    assert "✓ 0    parser     succeeded" in shown
    assert "· 2    summary    pending" in shown
    assert "critical path" in shown
    assert re.search(r"\d running, \d pending", shown)
    terminal.finish()
    everything = terminal.everything()
    assert everything.count("financial") == everything.count("legal") == 1, everything
    assert everything.count("wave node") == 1, "no frame is left behind"
    assert "succeeded  5 nodes: 5 succeeded" in everything
    assert "[claude-opus-4-5, simulated] summary was asked" in everything.replace("\n", "")
    assert terminal.child.exitstatus == 0
    assert terminal.raw.count("\x1b[?25l") == terminal.raw.count("\x1b[?25h") == 1, "the cursor comes back"


def test_tokens_and_the_time_to_the_first_are_seen_as_they_stream(tmp_path: Path) -> None:
    terminal = Terminal(pipeline(tmp_path, "  a: {prompt: hi, expect: {latency: 3s}}\n"), tmp_path)
    terminal.until(lambda text: re.search(r"running .*\d s +\d+ ms|running .* s +0\.\d s +~\d+", text) is not None)
    terminal.finish()


def test_no_line_is_wider_than_the_screen(tmp_path: Path) -> None:
    nodes = (
        "  a_node_with_a_name_that_is_longer_than_any_name_should_be_on_earth: {prompt: hi, expect: {latency: 1s}}\n"
    )
    for columns in (30, 60, 80):
        terminal = Terminal(pipeline(tmp_path, nodes), tmp_path, columns=columns)
        shown = terminal.until(lambda text: "▸" in text)
        assert shown.count("▸") == 1
        assert len(shown.splitlines()) <= 5, shown
        terminal.child.kill(signal.SIGKILL)
        terminal.finish()


def test_what_does_not_fit_is_folded_and_what_runs_comes_first(tmp_path: Path) -> None:
    nodes = "".join(f"  n{i}: {{prompt: hi, expect: {{latency: {1 if i < 50 else 2}s}}}}\n" for i in range(60))
    terminal = Terminal([*pipeline(tmp_path, nodes), "-c", "8"], tmp_path, lines=20)
    shown = terminal.until(lambda text: text.count("▸") == 8)
    assert re.search(r"and \d+ more: \d+ pending", shown)
    assert len(shown.splitlines()) <= 19
    terminal.child.kill(signal.SIGKILL)
    terminal.finish()


def test_failures_are_shown_before_what_has_succeeded(tmp_path: Path) -> None:
    nodes = "".join(f"  n{i}: {{prompt: hi, expect: {{latency: 1ms}}}}\n" for i in range(60))
    nodes += "  bad: {prompt: hi, retry: 0, expect: {latency: 1ms}, simulate: {fail: [auth]}}\n  slow: {prompt: hi, expect: {latency: 20s}}\n"
    terminal = Terminal([*pipeline(tmp_path, nodes), "-c", "99"], tmp_path, lines=12)
    terminal.until(lambda text: "✗ 0    bad" in text and "▸ 0    slow" in text and "succeeded" in text)
    terminal.child.kill(signal.SIGKILL)
    terminal.finish()


def test_a_resize_is_drawn_right_and_leaves_nothing_behind(tmp_path: Path) -> None:
    nodes = "  one: {prompt: hi, expect: {latency: 60s}}\n  two: {prompt: hi, expect: {latency: 60s}}\n"
    terminal = Terminal(pipeline(tmp_path, nodes), tmp_path, columns=100, lines=30)
    terminal.until(lambda text: "anthropic/claude-haiku-4-5" in text)
    for columns, lines in ((60, 20), (120, 15), (80, 24)):
        terminal.resize(columns, lines)
        mark = len(terminal.raw)
        while "\x1b[H\x1b[2J" not in terminal.raw[mark:]:
            assert terminal.read()
        shown = terminal.until(lambda text: text.count("▸") == 2)
        assert shown.count("wave") == 1, shown
        assert max(map(len, shown.splitlines())) < columns
    terminal.child.kill(signal.SIGKILL)
    terminal.finish()


def test_model_text_markup_and_escapes_are_inert(tmp_path: Path) -> None:
    nodes = '  a: {prompt: hi, expect: {latency: 300ms}, simulate: {output: "\\u001b[2J[bold]x[/bad]\\u001b]0;owned\\u0007"}}\n'
    (tmp_path / "m.yaml").write_text("")
    terminal = Terminal(pipeline(tmp_path, nodes), tmp_path)
    text = terminal.finish()
    assert "[bold]x[/bad]" in text
    assert "<U+001B>[2J" in text
    assert "\x1b]0;" not in terminal.raw
    assert "owned" in text


def test_what_functions_print_appears_above_the_table(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("def f():\n    print('hello from inside')\n    return 1\n")
    nodes = "  f: {call: 'loud:f'}\n  slow: {prompt: '{{ nodes.f.output }}', expect: {latency: 1s}}\n"
    terminal = Terminal(pipeline(tmp_path, nodes), tmp_path)
    shown = terminal.until(lambda text: "hello from inside" in text and "▸ 1    slow" in text)
    assert shown.index("hello from inside") < shown.index("wave node")
    assert terminal.finish().count("hello from inside") == 1


def test_ctrl_c_once_says_so_and_twice_ends_at_once(tmp_path: Path) -> None:
    nodes = "  done: {prompt: hi, expect: {latency: 1ms}}\n  slow: {prompt: '{{ nodes.done.output }}', expect: {latency: 1h}}\n"
    terminal = Terminal(pipeline(tmp_path, nodes), tmp_path)
    terminal.until(lambda text: "▸ 1    slow" in text)
    terminal.child.sendintr()
    terminal.until(lambda text: "again stops at once" in text and "▸ 1    slow" in text)
    terminal.child.sendintr()
    shown = terminal.finish()
    assert "slow cancelled: interrupted" in shown
    assert "interrupted  2 nodes" in shown
    assert "Traceback" not in terminal.raw
    assert terminal.child.exitstatus == 130


def test_no_color_means_none_and_color_can_be_asked_for(tmp_path: Path) -> None:
    arguments = pipeline(tmp_path, "  a: {prompt: hi, expect: {latency: 200ms}}\n")
    plain = Terminal(arguments, tmp_path, NO_COLOR="1")
    plain.finish()
    assert not re.search(r"\x1b\[[0-9;]*3\dm", plain.raw)
    colored = Terminal(arguments, tmp_path)
    colored.finish()
    assert re.search(r"\x1b\[[0-9;]*3\dm", colored.raw)


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    terminal = Terminal(pipeline(tmp_path, "  a: {prompt: hi, expect: {latency: 10ms}}\n"), tmp_path, TERM="dumb")
    assert "a   |" in terminal.finish()
    assert "\x1b" not in terminal.raw


def test_an_ascii_terminal_gets_ascii(tmp_path: Path) -> None:
    arguments = pipeline(tmp_path, "  a: {prompt: hi, expect: {latency: 500ms}}\n")
    terminal = Terminal(arguments, tmp_path, PYTHONIOENCODING="ascii")
    terminal.until(lambda text: "> 0    a" in text)
    terminal.finish()
    assert SYNC.sub("", terminal.raw).isascii()
