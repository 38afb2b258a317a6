"""The codes of findings: what each means, with a wrong and a right pipeline. They stand in `codes.md`, for people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from agentdag.errors import Severity
from agentdag.language.findings import severity_of

_SECTION = re.compile(
    r"^## (?P<code>AD\d{3}) (?P<title>[^\n]+)\n\n(?P<why>.+?)\n\n"
    r"```yaml wrong\n(?P<wrong>.*?)```\n\n```yaml right\n(?P<right>.*?)```\n",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Code:
    """One code. *wrong* is a whole pipeline that has this finding, *right* one that has none."""

    code: str
    title: str
    why: str
    wrong: str
    right: str

    @property
    def severity(self) -> Severity:
        return severity_of(self.code)


@cache
def codes() -> dict[str, Code]:
    """Every code, in order."""
    page = files("agentdag.language").joinpath("codes.md").read_text(encoding="utf-8")
    found = (match.groupdict() for match in _SECTION.finditer(page))
    return {told["code"]: Code(**{**told, "why": " ".join(told["why"].split())}) for told in found}
