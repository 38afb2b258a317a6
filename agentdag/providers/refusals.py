"""What models are known to refuse: data with its sources, in `refusals.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

UNSET = "unset"


@dataclass(frozen=True, slots=True)
class Known:
    """One thing that some models refuse; the fields are told at the top of the file."""

    types: frozenset[str]
    models: re.Pattern[str]
    refuses: str
    instead: str
    source: str
    but: re.Pattern[str] | None = None
    api: str | None = None
    says: tuple[str, ...] = ()
    with_: tuple[str, ...] = ()
    values: tuple[Any, ...] | None = None
    effort: frozenset[str] = frozenset()

    def concerns(self, kind: str, model: str, api: str | None) -> bool:
        """Whether it is about *model* of a provider of type *kind*, asked by *api*."""
        if kind not in self.types or (self.api is not None and self.api != api):
            return False
        return self.models.search(model) is not None and (self.but is None or self.but.search(model) is None)

    def refused(self, said: Mapping[str, Any]) -> list[str]:
        """What of *said*, the parameters of a request, is refused; the empty text where it is the model itself."""
        if not self.says:
            return [""]
        if self.effort and str(said.get("reasoning_effort", UNSET)) in self.effort:
            return []
        if self.with_ and not any(name in said for name in self.with_):
            return []
        names = (form for name in self.says for form in (name, f"params.{name}"))
        return [name for name in names if name in said and not self._accepts(said[name])]

    def _accepts(self, value: Any) -> bool:
        if self.values is None:
            return False
        numbers = any(isinstance(each, int) and each > 1 for each in self.values)
        return value in self.values or (numbers and isinstance(value, int))


@cache
def known_refusals() -> tuple[Known, ...]:
    """All of them."""
    text = files("agentdag.providers").joinpath("refusals.yaml").read_text(encoding="utf-8")
    return tuple(map(_known, yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))))  # noqa: S506 - safe


def _known(told: Mapping[str, Any]) -> Known:
    return Known(
        frozenset(told["types"]),
        re.compile(told["models"]),
        told["refuses"],
        told["instead"],
        told["source"],
        None if "but" not in told else re.compile(told["but"]),
        told.get("api"),
        tuple(told.get("says", ())),
        tuple(told.get("with", ())),
        None if "values" not in told else tuple(told["values"]),
        frozenset(map(str, told.get("effort", ()))),
    )


def refused(kind: str, model: str, api: str | None, said: Mapping[str, Any]) -> Iterator[tuple[str, Known]]:
    """What of *said* the *model* is known to refuse, each once, with what is known of it."""
    told: set[str] = set()
    for known in known_refusals():
        if known.concerns(kind, model, api):
            names = [name for name in known.refused(said) if name not in told]
            yield from ((name, known) for name in names)
            told.update(filter(None, names))
