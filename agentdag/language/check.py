"""A document against the language: what pydantic refuses, in the words of the language and with its place.

What is wrong is cut out and the rest read again, so that all other problems are found in the same pass.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from agentdag.errors import Finding, Span
from agentdag.language.document import Document, Path_, Source
from agentdag.language.findings import did_you_mean, severity_of
from agentdag.language.ignores import Ignores
from agentdag.language.scalars import describe
from agentdag.language.spec import PipelineSpec, known_keys
from agentdag.language.templates import Problem

_DUE = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
}
_WRITTEN = {
    "budget": "{cost: 1.50}, or {tokens: 100_000}",
    "when_low": "{at: 80%, do: [downgrade]}",
}
"""What a mapping looks like whose form is often guessed wrongly."""
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_FOREIGN = {
    "depends_on": "write `needs: [...]`",
    "dependencies": "write `needs: [...]`",
    "requires": "write `needs: [...]`",
    "after": "write `needs: [...]`",
    "agents": "write `nodes:`",
    "steps": "write `nodes:`",
    "tasks": "write `nodes:`",
    "jobs": "write `nodes:`",
    "args": "write `with:`",
    "kwargs": "write `with:`",
    "arguments": "write `with:`",
    "function": "write `call: package.module:function`",
    "python": "write `call: package.module:function`",
    "instructions": "write `system:`",
    "system_prompt": "write `system:`",
    "messages": "write `system:` and `prompt:`",
    "template": "write `prompt:`",
    "provider": "write `model: provider/name`",
    "join": "write `barrier: {wait_for: any}`, or see `agentdag explain barrier`",
    "trigger_rule": "write `barrier: {wait_for: any}`, or see `agentdag explain barrier`",
    "quorum": "write `barrier: {wait_for: 8}`",
    "fallbacks": "write `fallback: [...]`",
    "fallback_model": "write `fallback: [provider/name]`",
    "on_failure": "write `continue_on_failure: true`, or `fallback: [...]`",
    "on_error": "write `continue_on_failure: true`, or `fallback: [...]`",
    "retries": "write `retry: 2`",
    "max_retries": "write `retry: 2`",
    "timeout_s": "write `timeout: 45s`",
    "optional": "write `continue_on_failure: true`",
    "allow_failure": "write `continue_on_failure: true`",
    "continue_on_error": "write `continue_on_failure: true`",
    "max_concurrency": "write `limits: {concurrency: 8}`",
    "max_parallel": "write `limits: {concurrency: 8}`",
    "parallelism": "write `limits: {concurrency: 8}`",
    "if": 'write `when: "{{ ... }}"`',
    "condition": 'write `when: "{{ ... }}"`',
    "run": "write `command: [program, argument]`: no shell takes a line apart",
    "shell": "write `command: [sh, -c, ...]` where a shell is meant",
    "cmd": "write `command: [program, argument]`",
    "uses": "write `call: package.module:function`, or `pipeline: file.yaml`",
    "strategy": "write `foreach: [...]`",
    "matrix": "write `foreach: [...]`",
    "for_each": "write `foreach: [...]`",
    "loop": "write `foreach: [...]` for the items of a list, or `repeat: {until: ...}`",
    "while": 'write `repeat: {until: "{{ ... }}"}`',
    "until": 'write `repeat: {until: "{{ ... }}"}`',
    "url": "write `http: {url: ...}`",
    "vars": "write `inputs:`",
    "variables": "write `inputs:`",
    "env": "declare an input, or write ${NAME} under `providers:`",
}
MAX_MESSAGE = 400
_PLACES: dict[tuple[str, ...], str] = {
    ("limits",): "under `limits:`",
    ("defaults",): "under `defaults:`",
    ("nodes", "<id>"): "in a node",
    (): "at the top of the file",
}
"""Where keys are looked for that stand in the wrong place."""
_YAML_1_1 = frozenset({"yes", "no", "on", "off", "y", "n"})


def shortened(text: str) -> str:
    """*text*, which may quote what somebody wrote, at a length that can be read."""
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 20]} ... {text[-14:]}"


class Report:
    """Collects findings about one document; a comment in it may silence warnings."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.findings: list[Finding] = []
        self._ignores: Ignores | None = None

    def at(self, path: Path_, code: str, message: str, hint: str | None = None, *, key: bool = False) -> None:
        """A finding at the value (or the key) at *path*."""
        self.add(code, self.document.span(path, key=key), message, hint, path)

    def add(self, code: str, span: Span, message: str, hint: str | None = None, path: Path_ = ()) -> None:
        finding = Finding(code, severity_of(code), span, shortened(message), hint and shortened(hint))
        if finding.severity == "error" or not self._is_silenced(finding, path):
            self.findings.append(finding)

    def in_template(self, path: Path_, problem: Problem, source: Source | None = None) -> None:
        """A problem in the template at *path*, or in the prompt file *source*."""
        self.add(problem.code, self.template_span(path, problem, source), problem.message, problem.hint, path)

    def _is_silenced(self, finding: Finding, path: Path_) -> bool:
        """A comment counts on the finding's own line and on those of the keys that it stands below."""
        if self._ignores is None:
            self._ignores = Ignores(self.document)
        lines = {self.document.span(path[:length], key=True).line for length in range(2, len(path) + 1)}
        if path:
            lines.add(self.document.span(path, key=True).line)
        if finding.span.file == self.document.source.file:
            lines.add(finding.span.line)
        return self._ignores.silences(finding, lines)

    def tell_idle_ignores(self, known: AbstractSet[str]) -> None:
        """A finding for every comment that has silenced nothing so far; *known* are all codes that there are."""
        self.findings += (self._ignores or Ignores(self.document)).idle(known)

    def template_span(self, path: Path_, problem: Problem, source: Source | None) -> Span:
        if source is not None:
            line, last = problem.line, problem.line
            whole = source.span((line - 1, 0), (line - 1, max(1, len(source.line(line)))))
        else:
            source, place = self.document.source, self.document.span(path)
            style = self.document.style(path)
            block = style in {"|", ">"}
            line = min(place.line + problem.line - (0 if block else 1), place.end_line)
            last = place.end_line
            text = source.line(line)
            indent = len(text) - len(text.lstrip())
            whole = source.span((line - 1, indent), (line - 1, len(text))) if block else place
            if style != "|":  # its lines may be folded
                line = place.line
        if not problem.needle:
            return whole
        return source.find(problem.needle, line, last, default=whole)


@dataclass
class Checked:
    """What could be read of a document. `damaged` are the paths that were cut out of it."""

    spec: PipelineSpec | None
    damaged: set[tuple[str | int, ...]] = field(default_factory=set)
    _touched: set[tuple[str | int, ...]] = field(default_factory=set)

    def cut(self, path: tuple[str | int, ...]) -> None:
        """Remember that what stood at *path* is gone."""
        self.damaged.add(path)
        self._touched.update(path[:length] for length in range(len(path) + 1))

    def is_cut(self, path: tuple[str | int, ...]) -> bool:
        """Whether *path* or something around it is gone."""
        return any(path[:length] in self.damaged for length in range(len(path) + 1))

    def is_damaged(self, *path: str | int) -> bool:
        """Whether *path* or something inside it is gone."""
        return path in self._touched


def check_document(document: Document, report: Report) -> Checked:
    """The spec in *document*; every refusal goes to *report*. The spec is None where nothing is left."""
    value = document.value
    if not isinstance(value, dict):
        report.at((), "AD202", f"a pipeline is a mapping, not {describe(value)}", "begin with `nodes:`")
        return Checked(None)
    checked = Checked(None)
    unknown: list[tuple[Any, ...]] = []
    for _ in range(4):
        try:
            checked.spec = PipelineSpec.model_validate(value)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            if not checked.damaged:
                value = copy.deepcopy(value)
            unknown += [tuple(problem["loc"]) for problem in problems if problem["type"] == "extra_forbidden"]
            for problem in sorted(problems, key=lambda each: each["type"] != "extra_forbidden"):
                path = tuple(problem["loc"])
                if problem["type"] == "missing" and _is_meant(path, unknown):
                    _cut(value, path, checked)
                    continue
                lacks = (problem.get("ctx") or {}).get("lacks", False)
                if not checked.is_cut(path) and not (lacks and checked.is_damaged(*path)):
                    _report(report, problem)
                _cut(value, path, checked)
        else:
            return checked
    return checked


def _report(report: Report, problem: Mapping[str, Any]) -> None:
    kind, path = problem["type"], tuple(problem["loc"])
    if kind not in {"extra_forbidden", "missing"}:
        path = _existing(report.document.value, path)
    context = problem.get("ctx") or {}
    key = str(path[-1]) if path else "the pipeline"
    match kind:
        case "extra_forbidden":
            report.at(path, "AD201", f"unknown key `{key}`", _key_hint(key, path[:-1]), key=True)
        case "missing":
            hint = "write `<id>: {prompt: ...}` below it" if path == ("nodes",) else None
            report.at(path[:-1], "AD203", f"`{key}` is missing", hint, key=True)
        case "refused":
            report.at(path, "AD202", context["message"], context.get("hint"))
        case "literal_error":
            known = [word.strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
            message = f"`{key}` is {' or '.join(known)}, not {describe(problem['input'])}"
            report.at(path, "AD202", message, did_you_mean(str(problem["input"]), known))
        case _ if kind in _BOUNDS:
            words, bound = _BOUNDS[kind]
            report.at(path, "AD202", f"`{key}` is {words} {context[bound]:g}, not {problem['input']}")
        case _:
            _report_type(report, path, kind, problem)


def _is_meant(path: tuple[Any, ...], unknown: Sequence[tuple[Any, ...]]) -> bool:
    """Whether one of the *unknown* keys was meant to be the missing one at *path*: then it is told already."""
    beside = (str(each[-1]) for each in unknown if each[:-1] == path[:-1])
    named = {f"write `{path[-1]}:`", f"did you mean `{path[-1]}`?"}
    return any(_key_hint(key, path[:-1]) in named for key in beside)


def _existing(value: Any, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """The part of *path* that the file has: pydantic adds the names of its own types."""
    for length, step in enumerate(path):
        if (isinstance(value, dict) and step in value) or (
            isinstance(value, list) and isinstance(step, int) and step < len(value)
        ):
            value = value[step]
        else:
            return path[:length]
    return path


def _report_type(report: Report, path: tuple[str | int, ...], kind: str, problem: Mapping[str, Any]) -> None:
    value = problem["input"]
    named = [str(step) for step in path if isinstance(step, str)]
    key = named[-1] if named else "the pipeline"
    if kind not in _DUE:
        report.at(path, "AD202", f"`{key}`: {problem['msg']}")
        return
    item = "an item of " if path and isinstance(path[-1], int) else ""
    message = f"{item}`{key}` is {_DUE[kind]}, not {describe(value)}"
    report.at(
        path, "AD202", message, _mapping_hint(path, key, value) if kind == "model_type" else _hint(kind, key, value)
    )


def _hint(kind: str, key: str, value: Any) -> str | None:
    """How to write a plain value, or a list of them, where *value* was written."""
    if kind == "bool_type" and isinstance(value, str) and value.lower() in _YAML_1_1:
        return "YAML 1.2 knows only true and false"
    if kind == "list_type" and isinstance(value, str):
        words = value.replace(",", " ").split() if key == "needs" else [value]
        return f"write [{', '.join(words)}]"
    if kind != "string_type" or value is None:
        return None
    if isinstance(value, dict):
        return "put quotes around text that holds `: ` or begins with `{`"
    return "write one text; `|` begins one of several lines" if isinstance(value, list) else "put quotes around it"


def _mapping_hint(path: tuple[str | int, ...], key: str, value: Any) -> str | None:
    """How to write the mapping that is due at *path*, where *value* was written."""
    if value is None:
        return f"write keys below `{key}:`, indented"
    if key in _WRITTEN:
        return f"write {_WRITTEN[key]}"
    if path[:1] == ("tiers",):
        return "write provider/model, or {model: provider/model} with its parameters"
    if isinstance(value, str):
        if path[:1] == ("inputs",):
            return f"write {{type: {value}}}"
        if key == "hedge":
            return f"write {{after: {value}}}"
        if len(path) == 2 and path[0] == "nodes":
            return "write {prompt: ...}"
    return None


def _key_hint(key: str, parent: tuple[str | int, ...]) -> str | None:
    known = known_keys(parent) or []
    near = did_you_mean(key, known)
    foreign = _FOREIGN.get(key) or _elsewhere(key)
    if foreign is not None:
        return foreign
    return near or (f"known here: {', '.join(known)}" if known else None)


def _elsewhere(key: str) -> str | None:
    """Where *key* stands in the language, where one can tell."""
    places = [place for parent, place in _PLACES.items() if key in (known_keys(parent) or [])]
    return f"`{key}` stands {' or '.join(places[:2])}" if places else None


def _cut(value: Any, path: Sequence[Any], checked: Checked) -> None:
    """Remove what stands at *path*; where nothing stands there, its nearest parent that does."""
    container, parent, found = value, None, []
    for step in path:
        if not isinstance(container, (dict, list)) or (isinstance(container, dict) and step not in container):
            break
        if isinstance(container, list) and not (isinstance(step, int) and step < len(container)):
            break
        if isinstance(container, list):
            break
        parent, container = container, container[step]
        found.append(step)
    if parent is not None and len(found) > 0:
        parent.pop(found[-1], None)
        checked.cut(tuple(found))
