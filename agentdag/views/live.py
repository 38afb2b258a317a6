"""The live table on a terminal: a region at the bottom that is painted over, a few times a second.

One write a frame inside a synchronized update, so nothing flickers; a resize repaints from a clean
screen, so nothing is left behind; what others print meanwhile appears above.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TextIO, TypeVar

from rich.console import Console
from rich.text import Text

from agentdag.events import Event, RunFinished, RunStarted
from agentdag.views.words import speaks

FRAME_S = 0.1
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_ERASE_LINE, _ERASE_BELOW, _CLEAR = "\x1b[K", "\x1b[J", "\x1b[H\x1b[2J"


class Watched(Protocol):
    """What is painted: whoever watches may be told something."""

    note: str


B = TypeVar("B", bound=Watched)
D_contra = TypeVar("D_contra", contravariant=True)


class Draw(Protocol[D_contra]):
    """From a board to lines, as `table.render`."""

    def __call__(self, board: D_contra, /, *, now: float, width: int, height: int, ascii_only: bool) -> list[Text]: ...


class LiveTable(Generic[B]):
    """Keeps *board* painted on *stream* by *draw*; an observer of one run, where the board is told events before it."""

    def __init__(self, board: B, stream: TextIO, *, color: bool, draw: Draw[B]) -> None:
        self._board = board
        self._draw = draw
        self._stream = stream
        self._ascii = not speaks(stream, "▸↻✓✗■·…→")
        self._console = Console(file=io.StringIO(), force_terminal=True, no_color=not color, width=10_000)
        self._painted = 0
        self._size: tuple[int, int] | None = None
        self._now: Callable[[], float] = lambda: 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._broken = False

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, RunStarted):
            self.start(event.at)
        elif isinstance(event, RunFinished):
            self.stop()

    def start(self, at: float) -> None:
        """Begin to paint; the clock that is told stands at *at* seconds."""
        loop = asyncio.get_running_loop()
        start = loop.time() - at
        self._now = lambda: loop.time() - start
        self._write(_HIDE)
        self._tick()

    def stop(self) -> None:
        """Take the region off the screen; whoever prints next begins where it stood."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._write(_BEGIN + self._home() + _ERASE_BELOW + _SHOW + _END)
            self._painted = 0

    def note(self, text: str) -> None:
        """A word to whoever watches, below the table."""
        self._board.note = text
        if self._timer is not None:
            self._paint()

    def above(self, text: str) -> None:
        """Print whole lines above the region."""
        if self._timer is not None:
            self._paint(above=text)
        else:
            self._write(text)

    def _tick(self) -> None:
        self._paint()
        self._timer = asyncio.get_running_loop().call_later(FRAME_S, self._tick)

    def _paint(self, above: str = "") -> None:
        size = self._terminal_size()
        lines = self._draw(
            self._board, now=self._now(), width=size.columns - 1, height=size.lines - 1, ascii_only=self._ascii
        )
        start = self._home()
        if self._size not in {None, size}:
            start = _CLEAR
        self._size = size
        with self._console.capture() as capture:
            for line in lines:
                self._console.print(line, end=f"{_ERASE_LINE}\n", soft_wrap=True, highlight=False)
        if above:
            start += _ERASE_BELOW + above
        self._write(_BEGIN + start + capture.get() + _ERASE_BELOW + _END)
        self._painted = len(lines)

    def _terminal_size(self) -> os.terminal_size:
        """Of the terminal itself: COLUMNS and LINES in the environment do not follow a resize."""
        try:
            return os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return shutil.get_terminal_size()

    def _home(self) -> str:
        """Back to the region's first column and line."""
        return "\r" + (f"\x1b[{self._painted}A" if self._painted else "")

    def _write(self, text: str) -> None:
        """A terminal that went away ends the painting and nothing else."""
        if self._broken:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._broken = True

    @contextmanager
    def capturing_prints(self) -> Iterator[None]:
        """While it lasts, what anyone prints appears above the table instead of in it."""
        saved = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = _Above(self)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = saved
            self.stop()


class _Above(io.TextIOBase):
    """A stream whose lines go above the table. Called from any thread of the user's functions."""

    def __init__(self, table: LiveTable[Any]) -> None:
        self._table = table
        self._rest = ""
        self._loop = asyncio.get_running_loop()

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if lines and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._table.above, "\n".join(lines) + "\n")
        return len(text)

    def writable(self) -> bool:
        return True
