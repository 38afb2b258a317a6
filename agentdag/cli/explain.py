"""`explain`: what a word means. Nothing is told here that does not stand where the word itself is defined."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agentdag.errors import ErrorKind, UsageError
from agentdag.events import Event, Exit, Reason, RunStatus, Status
from agentdag.language.codes import codes
from agentdag.language.findings import did_you_mean
from agentdag.language.limits import ACTIONS
from agentdag.language.scalars import DURATION_FORMS
from agentdag.language.schema import json_schema
from agentdag.language.spec import PipelineSpec, part_of
from agentdag.language.templates import NAMES, NODE_ATTRIBUTES
from agentdag.plan.forecast import TERMS
from agentdag.views.lines import writer

WIDTH = 100
MOST_KEYS = 12
"""Of a mapping with more keys, they are not listed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One word: its other names, what it is, what it means, and what else there is to know, line by line."""

    word: str
    kind: str
    text: str
    more: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def explain(word: str | None) -> int:
    """Print what *word* means, or every word there is; raises UsageError where nobody knows it."""
    out = writer(sys.stdout)
    if word is None:
        out(_overview())
        return Exit.SUCCEEDED
    found = [entry for entry in entries() if word.lower() in {entry.word.lower(), *map(str.lower, entry.names)}]
    if not found:
        words = {name for entry in entries() for name in (entry.word, *entry.names)}
        hint = did_you_mean(word, sorted(words)) or "`agentdag explain` lists all words"
        raise UsageError(f"there is no word `{word}`", hint=hint)
    out("\n\n".join(_told(entry) for entry in found) + "\n")
    return Exit.SUCCEEDED


def words() -> list[str]:
    """Every word that can be explained."""
    return sorted({entry.word for entry in entries()})


@cache
def entries() -> tuple[Entry, ...]:
    """Every word, keys first."""
    return (*_keys(), *_template_words(), *_terms(), *_events(), *_codes())


def _overview() -> str:
    kinds: dict[str, list[str]] = {}
    for entry in entries():
        kinds.setdefault(entry.kind.partition(":")[0], []).append(entry.word)
    parts = []
    for kind, found in kinds.items():
        parts.append(f"{kind}\n" + _wrapped("  ".join(dict.fromkeys(found)), 2))
    return "\n\n".join(parts) + "\n\nagentdag explain WORD tells what one of them means.\n"


def _told(entry: Entry) -> str:
    lines = [f"{entry.word} - {entry.kind}", _wrapped(entry.text, 2)]
    lines += [f"  {line}".rstrip() for line in entry.more]
    return "\n".join(lines)


def _wrapped(text: str, indent: int) -> str:
    import textwrap

    margin = " " * indent
    return textwrap.fill(text, WIDTH, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False)


def _keys() -> Iterator[Entry]:
    """The keys of the language; those that mean the same in several places once, with all of their places."""
    places: dict[tuple[str, str], list[str]] = {}
    fields: dict[tuple[str, str], FieldInfo] = {}
    for path, field in _fields(PipelineSpec, ""):
        known = path.rpartition(".")[2], field.description or ""
        places.setdefault(known, []).append(path)
        fields[known] = field
    forms = _forms()
    every = [path for paths in places.values() for path in paths]
    for (name, text), paths in places.items():
        example = (fields[name, text].examples or [None])[0]
        more = [f"written as  {forms[paths[0]]}", *_labelled("example", _written(name, example))]
        inner = [path.removeprefix(f"{paths[0]}.") for path in every if path.startswith(f"{paths[0]}.")]
        if (keys := [key for key in inner if "." not in key]) and len(keys) <= MOST_KEYS:
            more += _labelled("keys", _wrapped(", ".join(keys), 0))
        short = {path.replace(".<id>", "").replace(".<name>", "") for path in paths}
        below = {".".join(path.split(".")[-2:]) for path in short}
        yield Entry(
            name,
            f"key: {', '.join(paths)}",
            " ".join(text.split()),
            tuple(more),
            tuple(sorted({*paths, *short, *below})),
        )


def _written(name: str, value: Any) -> str:
    """A key and its value as one writes them."""
    text = yaml.safe_dump(value, default_flow_style=None, sort_keys=False, width=WIDTH)
    lines = text.removesuffix("...\n").splitlines()
    nested = isinstance(value, dict) and not lines[0].startswith("{")
    return "\n".join([f"{name}:", *(f"  {line}" for line in lines)] if nested else [f"{name}: {lines[0]}", *lines[1:]])


def _labelled(label: str, text: str) -> Iterator[str]:
    for index, line in enumerate(text.splitlines()):
        yield f"{'' if index else label:<10}  {line}"


def _fields(model: type[BaseModel], parent: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        path = f"{parent}{field.alias or name}"
        yield path, field
        part = part_of(field.annotation)
        if not (isinstance(part, type) and issubclass(part, BaseModel)):
            inner = [part_of(each) for each in get_args(part)]
            part = next((each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)), None)
            path += ".<id>" if name == "nodes" else ".<name>"
        if part is not None:
            yield from _fields(part, f"{path}.")


def _forms() -> dict[str, str]:
    """How each key is written, by its path, in words."""
    whole = json_schema()
    forms: dict[str, str] = {}

    def visit(part: dict[str, Any], parent: str) -> None:
        for name, value in part.get("properties", {}).items():
            path = f"{parent}{name}"
            forms[path] = " or ".join(form for form in dict.fromkeys(_form(value, whole)) if form)
            for inner, step in _below(value, whole):
                within = {"": "", "*": ".<id>" if name == "nodes" else ".<name>"}[step]
                visit(inner, f"{path}{within}.")

    visit(whole, "")
    return forms


def _below(part: dict[str, Any], whole: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The mappings with known keys that *part* stands for, or that its values stand for (`*`)."""
    if "$ref" in part:
        yield whole["definitions"][part["$ref"].rpartition("/")[2]], ""
    for each in (*part.get("anyOf", ()), *part.get("allOf", ())):
        yield from _below(each, whole)
    if isinstance(part.get("items"), dict):
        yield from _below(part["items"], whole)
    values = part.get("additionalProperties")
    if isinstance(values, dict):
        yield from ((inner, "*") for inner, _ in _below(values, whole))


def _form(part: dict[str, Any], whole: dict[str, Any]) -> Iterator[str]:
    if "$ref" in part:
        yield "a mapping"
        return
    for each in (*part.get("anyOf", ()), *part.get("allOf", ())):
        yield from _form(each, whole)
    if "const" in part:
        yield str(part["const"])
    elif "enum" in part:
        yield f"one of {', '.join(map(str, part['enum']))}"
    elif "type" in part:
        kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
        yield from (_type(kind, part, whole) for kind in kinds if kind != "null")
    elif not {"anyOf", "allOf"} & part.keys():
        yield "any value"


def _type(kind: str, part: dict[str, Any], whole: dict[str, Any]) -> str:
    match kind:
        case "string" if "ms)" in part.get("pattern", ""):
            return f"a duration: {DURATION_FORMS}"
        case "string" if ":" in part.get("pattern", "") and "\\w" in part.get("pattern", ""):
            return "package.module:function"
        case "string" if "/" in part.get("pattern", ""):
            return "provider/model"
        case "string" if part.get("pattern", "").startswith("^[0-9]"):
            return ""  # the count with underscores: said for numbers already
        case "array":
            return f"a list of {' or '.join(_form(part.get('items') or {}, whole)).removeprefix('one of ')}"
    bounds = [f"at least {part['minimum']}"] if "minimum" in part else []
    bounds += [f"above {part['exclusiveMinimum']}"] if "exclusiveMinimum" in part else []
    bounds += [f"at most {part['maximum']}"] if "maximum" in part else []
    known = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}
    return " ".join([known.get(kind, "a mapping"), *bounds])


def _template_words() -> Iterator[Entry]:
    for name, text in NAMES.items():
        yield Entry(name, "name in templates", text)
    for name, text in NODE_ATTRIBUTES.items():
        yield Entry(name, f"attribute of a node in templates: nodes.<id>.{name}", text)


def _terms() -> Iterator[Entry]:
    for term, text in TERMS.items():
        yield Entry(term, "word of the forecast", text)
    for action, text in ACTIONS.items():
        told = {"downgrade": ("downgraded",), "shrink": ("shortened",)}.get(action, ())
        yield Entry(action, "what is done when a budget is low", text, names=told)
    for reason in Reason:
        yield Entry(reason.value, "why a barrier opened", reason.meaning)
    for status in Status:
        yield Entry(status.value, "status of a node", status.meaning)
    for end in RunStatus:
        yield Entry(end.value, "status of a run", end.meaning)
    for kind in ErrorKind:
        yield Entry(kind.value, "kind of error", kind.meaning)
    for code in Exit:
        yield Entry(str(code.value), "exit code", code.meaning, names=(f"exit {code.value}",))


def _events() -> Iterator[Entry]:
    for event in get_args(Event):
        told = " ".join((event.__doc__ or "").split())
        names = [field.name for field in dataclasses.fields(event)]
        yield Entry(event.type, "event", told, (f"fields      type, {', '.join(names)}",))


def _codes() -> Iterator[Entry]:
    for code in codes().values():
        more = ["", "wrong", *(f"  {line}" for line in code.wrong.splitlines())]
        more += ["", "right", *(f"  {line}" for line in code.right.splitlines())]
        yield Entry(code.code, f"{code.severity}: {code.title}", code.why, tuple(more))
