"""YAML text to plain values plus the span of every key and value.

Hostile documents are refused before they cost anything: one pass over the parser's events builds
the values, so depth, aliases, tags and duplicates are seen before anything is expanded.
This file knows YAML and nothing of pipelines.
"""

from __future__ import annotations

import gc
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from agentdag.errors import Finding, Span, SpecError
from agentdag.language.syntax import yaml_complaint

MAX_DOCUMENT_BYTES = 4 * 2**20
MAX_DEPTH = 64
MAX_ALIASED_VALUES = 100_000
"""How many values all aliases together may stand for."""
MAX_DIGITS = 300

Path_ = Sequence[str | int]
"""The way from the document's root to a value: keys and indices."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_WORDS: dict[str, Any] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_WORDS |= dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf"))
_WORDS |= dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf"))
_WORDS |= dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan"))
_INT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0_?[0-9]")


class Source:
    """A text file that findings can point into: the pipeline, or a prompt file."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self._starts = [0, *(match.end() for match in _LINE_BREAK.finditer(text))]

    def line(self, number: int) -> str:
        """The text of line *number* (from 1) without its break."""
        if not 1 <= number <= len(self._starts):
            return ""
        end = self._starts[number] if number < len(self._starts) else len(self.text)
        return self.text[self._starts[number - 1] : end].rstrip("\r\n\x85\u2028\u2029")

    def span(self, start: tuple[int, int], end: tuple[int, int]) -> Span:
        """The span between two (line, column) places that count from 0."""
        line = start[0] + 1
        return Span(self.file, line, start[1] + 1, end[0] + 1, end[1] + 1, self.line(line))

    def span_at(self, offset: int, length: int = 1) -> Span:
        """The span of *length* characters at character *offset*."""
        row = bisect_right(self._starts, offset) - 1
        column = offset - self._starts[row]
        return self.span((row, column), (row, column + length))

    def find(self, needle: str, first_line: int, last_line: int, default: Span) -> Span:
        """The span of *needle* as a whole word on one of the lines (from 1), else *default*.

        Inside a template's braces is preferred to outside, and alone to where a dot follows.
        """
        inside = r"(?:\{\{|\{%)(?:(?!\}\}|%\}).)*?"
        for before, after in ((inside, r"(?![\w.])"), (inside, r"(?!\w)"), ("", r"(?!\w)")):
            pattern = re.compile(rf"{before}(?<![\w.])({re.escape(needle)}){after}")
            for number in range(first_line, last_line + 1):
                if match := pattern.search(self.line(number)):
                    return self.span((number - 1, match.start(1)), (number - 1, match.end(1)))
        return default


class _Marks(NamedTuple):
    """Where a key (None in a sequence) and its value stand, as the parser's own events and marks."""

    key: Any
    value: Any
    end: Any


@dataclass(frozen=True)
class Document:
    """The plain value of one YAML document, and where each part of it stands."""

    source: Source
    value: Any
    root: Any
    """The first event of the document's value."""
    marks: dict[int, dict[Any, _Marks]]
    """By the id of a container that `value` holds: the marks of each key or index."""

    def span(self, path: Path_, *, key: bool = False) -> Span:
        """Where the value at *path* stands, or its key; of a missing value, its nearest parent's key."""
        container, found, missed = self.value, None, False
        for step in path:
            marks = self.marks.get(id(container), {})
            if step not in marks:
                missed = isinstance(container, (dict, list))
                break
            found = marks[step]
            container = container[step]
        if found is None:
            return self._of(self.root, self.root.end_mark)
        if found.key is not None and (key or missed or self._is_empty(found)):
            return self._of(found.key, found.key.end_mark)
        return self._of(found.value, found.end)

    def style(self, path: Path_) -> str | None:
        """How the scalar at *path* is written: `|`, `>`, `'`, `"`, or None for plain and for containers."""
        container = self.value
        for step in path[:-1]:
            container = container[step]
        event = self.marks[id(container)][path[-1]].value
        return getattr(event, "style", None)

    def scalars(self) -> Iterator[tuple[int, int]]:
        """Where each text begins and ends, by character: what looks like a comment in there is none."""
        for marks in self.marks.values():
            for key, value, end in marks.values():
                if key is not None:
                    yield key.start_mark.index, key.end_mark.index
                style = getattr(value, "style", None)
                if not isinstance(value, yaml.CollectionStartEvent):
                    start = value.start_mark.index
                    if style in {"|", ">"}:  # a comment may stand behind the sign
                        start = self.source.text.find("\n", start)
                    yield start, end.index

    @staticmethod
    def _is_empty(marks: _Marks) -> bool:
        return bool(marks.value.start_mark.index == marks.end.index)

    def _of(self, event: Any, end: Any) -> Span:
        start = event.start_mark
        return self.source.span((start.line, start.column), (end.line, end.column))


@dataclass(slots=True)
class _Frame:
    """A container that is being filled."""

    start: Any
    container: dict[Any, Any] | list[Any]
    marks: dict[Any, _Marks] = field(default_factory=dict)
    size: int = 1
    key: str | None = None
    key_event: Any = None
    merges: list[tuple[Any, Any]] = field(default_factory=list)


def read_text(path: Path, file: str, max_bytes: int = MAX_DOCUMENT_BYTES) -> str:
    """The text of *path*, without a byte order mark.

    Raises SpecError where it cannot be read, is larger than *max_bytes*, or is not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise _refusal(file, "AD101", f"cannot read this file: {error.strerror or error}") from None
    return decode(data, file, max_bytes)


def decode(data: bytes, file: str, max_bytes: int = MAX_DOCUMENT_BYTES) -> str:
    """*data* as text, without a byte order mark; raises SpecError as `read_text` does."""
    if len(data) > max_bytes:
        raise _refusal(
            file,
            "AD101",
            f"this file is larger than {max_bytes // 2**20} MiB",
            "move long texts into files named by `prompt_file` or by inputs of type `file`",
        )
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _refusal(file, "AD101", "this file is UTF-16", "save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        place = Source(file, before + "?").span_at(len(before))
        message = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise SpecError([Finding("AD101", "error", place, message, "save the file as UTF-8")]) from None


def parse_document(text: str, file: str) -> tuple[Document, list[Finding]]:
    """The document in *text*, and what is wrong with it that leaves the rest readable.

    Raises SpecError where nothing sensible can be read at all.
    """
    source = Source(file, text)
    if control := _CONTROL.search(text):
        message = f"control character U+{ord(control[0]):04X} is not allowed"
        raise SpecError([Finding("AD103", "error", source.span_at(control.start()), message, "remove it")])
    builder = _Builder(source)
    with _no_garbage_collection():
        try:
            builder.read(yaml.parse(text, Loader=_LOADER))
        except yaml.MarkedYAMLError as error:
            raise SpecError([_syntax_finding(source, error)]) from None
    if builder.root is None:
        raise _refusal(file, "AD101", "this file is empty", "a pipeline needs at least `nodes:`")
    return Document(source, builder.value, builder.root, builder.marks), builder.findings


class _Builder:
    """Turns parser events into values and marks, with a stack of its own instead of recursion."""

    def __init__(self, source: Source) -> None:
        self.value: Any = None
        self.root: Any = None
        self.marks: dict[int, dict[Any, _Marks]] = {}
        self.findings: list[Finding] = []
        self._source = source
        self._stack: list[_Frame] = []
        self._anchors: dict[str, Any] = {}
        self._open: set[str] = set()
        self._sizes: dict[int, int] = {}
        self._aliased = 0

    def read(self, events: Iterator[Any]) -> None:
        for event in events:
            match event:
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.MappingStartEvent():
                    self._begin(event, {})
                case yaml.SequenceStartEvent():
                    self._begin(event, [])
                case yaml.CollectionEndEvent():
                    self._end(event)
                case yaml.AliasEvent():
                    self._alias(event)
                case yaml.DocumentStartEvent() if self.root is not None:
                    self._refuse(event, "a second document begins here", "keep one pipeline in a file")

    def _scalar(self, event: Any) -> None:
        if event.tag is not None:
            self._refuse_tag(event)
        frame = self._stack[-1] if self._stack else None
        if frame is not None and type(frame.container) is dict and frame.key_event is None:
            self._key(frame, event)
            return
        value = event.value if event.style else self._plain(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        self._add(event, value, event.end_mark, 1)

    def _plain(self, event: Any) -> Any:
        text: str = event.value
        if text in _WORDS:
            return _WORDS[text]
        if text[0] not in "+-.0123456789":
            return text
        if _INT.fullmatch(text) or _FLOAT.fullmatch(text):
            if _LEADING_ZERO.match(text):
                message = f"{text} begins with a zero: YAML versions read it as different numbers"
                hint = (
                    f'write "{text}" in quotes for text, or {text.replace("_", "").lstrip("+-0") or "0"} for a number'
                )
                self._find(event, "AD105", message, hint)
                return text
            if len(text) > MAX_DIGITS:
                self._find(event, "AD105", "this number is too long", "put quotes around it if it is text")
                return text
            digits = text.replace("_", "")
            return int(digits) if _INT.fullmatch(text) else float(digits)
        return int(text, 0) if len(text) <= MAX_DIGITS and _BASED.fullmatch(text) else text

    def _key(self, frame: _Frame, event: Any) -> None:
        value = event.value if event.style else self._plain(event)
        if not isinstance(value, str):
            self._find(event, "AD105", f"the key {event.value or 'null'} is not text", "put quotes around it")
        frame.key = event.value
        frame.key_event = event

    def _begin(self, event: Any, container: dict[Any, Any] | list[Any]) -> None:
        if event.tag is not None:
            self._refuse_tag(event)
        if len(self._stack) >= MAX_DEPTH:
            self._refuse(event, f"this is nested deeper than {MAX_DEPTH} levels", "flatten it")
        parent = self._stack[-1] if self._stack else None
        if parent is not None and type(parent.container) is dict and parent.key_event is None:
            if self._source.text[event.start_mark.index - 1 : event.start_mark.index + 1] == "{{":
                self._refuse(event, "a template must stand in quotes", 'write "{{ ... }}"')
            self._refuse(event, "a key must be text", "write the key out")
        if event.anchor is not None:
            self._open.add(event.anchor)
        self._stack.append(_Frame(event, container))

    def _end(self, event: Any) -> None:
        frame = self._stack.pop()
        for merged, place in frame.merges:
            self._merge(frame, merged, place)
        self.marks[id(frame.container)] = frame.marks
        self._sizes[id(frame.container)] = frame.size
        if frame.start.anchor is not None:
            self._anchors[frame.start.anchor] = frame.container
            self._open.discard(frame.start.anchor)
        self._add(frame.start, frame.container, event.end_mark, frame.size)

    def _alias(self, event: Any) -> None:
        if event.anchor in self._open:
            self._refuse(event, f"the alias *{event.anchor} stands inside itself", "write the value out")
        if event.anchor not in self._anchors:
            self._refuse(event, f"there is no anchor &{event.anchor} above", None)
        value = self._anchors[event.anchor]
        size = self._sizes.get(id(value), 1)
        self._aliased += size
        if self._aliased > MAX_ALIASED_VALUES:
            self._refuse(event, f"the aliases stand for more than {MAX_ALIASED_VALUES} values", "write them out")
        frame = self._stack[-1] if self._stack else None
        if frame is not None and type(frame.container) is dict and frame.key_event is None:
            self._refuse(event, "an alias cannot be a key", "write the key out")
        self._add(event, value, event.end_mark, size)

    def _add(self, event: Any, value: Any, end: Any, size: int) -> None:
        if not self._stack:
            self.value, self.root = value, event
            return
        frame = self._stack[-1]
        frame.size += size
        if type(frame.container) is list:
            frame.marks[len(frame.container)] = _Marks(None, event, end)
            frame.container.append(value)
            return
        key, key_event = frame.key, frame.key_event
        frame.key = frame.key_event = None
        if key == "<<" and not key_event.style:
            frame.merges.append((value, event))
        elif key in frame.container:
            first = frame.marks[key].key.start_mark.line + 1
            self._find(
                key_event, "AD104", f"the key `{key}` stands here a second time", f"the first is on line {first}"
            )
        else:
            assert isinstance(frame.container, dict)
            frame.container[key] = value
            frame.marks[key] = _Marks(key_event, event, end)

    def _merge(self, frame: _Frame, merged: Any, place: Any) -> None:
        """Merge keys (`<<`): what stands in the mapping itself wins, then the earlier of a list."""
        assert isinstance(frame.container, dict)
        for each in merged if isinstance(merged, list) else [merged]:
            if not isinstance(each, dict):
                self._find(place, "AD103", "`<<` merges mappings only", "name an anchor of a mapping: `<<: *name`")
                continue
            for key, value in each.items():
                if key not in frame.container:
                    frame.container[key] = value
                    frame.marks[key] = self.marks[id(each)][key]

    def _refuse_tag(self, event: Any) -> None:
        hint = "a pipeline holds text, numbers, true, false, null, lists and mappings"
        self._refuse(event, f"the tag {event.tag} is not allowed", hint)

    def _refuse(self, event: Any, message: str, hint: str | None) -> None:
        """Stop reading: what follows would cost too much or mean nothing."""
        raise SpecError([*self.findings, self._finding(event, "AD103", message, hint)])

    def _find(self, event: Any, code: str, message: str, hint: str | None) -> None:
        self.findings.append(self._finding(event, code, message, hint))

    def _finding(self, event: Any, code: str, message: str, hint: str | None) -> Finding:
        start, end = event.start_mark, event.end_mark
        span = self._source.span((start.line, start.column), (end.line, end.column))
        return Finding(code, "error", span, message, hint)


def _syntax_finding(source: Source, error: yaml.MarkedYAMLError) -> Finding:
    mark, opening = error.problem_mark or error.context_mark, error.context_mark
    assert mark is not None
    row, column = mark.line, mark.column
    while row and not source.line(row + 1).strip():  # at the end of the file: show its last words
        row, column = row - 1, len(source.line(row).rstrip())
    opened = None if opening is None else (opening.line + 1, opening.column + 1)
    problem, line = error.problem or "this is not YAML", source.line(row + 1)
    told = yaml_complaint(problem, error.context or "", line, column, opened)
    if told.at_opening and opening is not None:
        row, column = opening.line, opening.column
    return Finding("AD102", "error", source.span((row, column), (row, column + 1)), told.message, told.hint)


def _refusal(file: str, code: str, message: str, hint: str | None = None) -> SpecError:
    return SpecError([Finding(code, "error", Span(file, 1, 1, 1, 1), message, hint)])


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Building many small objects triggers collections that find nothing: 1.4 s become 0.5 s at 10,000 nodes."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
