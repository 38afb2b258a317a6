"""Keys that were written into a pipeline: found, and kept out of everything that is printed about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from agentdag.errors import Finding

_SECRET = re.compile(
    r"(?<![A-Za-z0-9_-])(?:sk-(?:ant-|proj-|or-)?[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|"
    r"github_pat_[A-Za-z0-9_]{30,}|glpat-[A-Za-z0-9_-]{20,}|xox[abprs]-[A-Za-z0-9-]{20,}|AIza[A-Za-z0-9_-]{35}|"
    r"hf_[A-Za-z0-9]{30,}|eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{10,})"
)
_BEGINNINGS = (
    "sk-",
    "AKIA",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xox",
    "AIza",
    "hf_",
    "eyJ",
)
"""One of these begins each of them: to look for these first is quicker."""
_LETTERS_OF_A_SECRET = 10
"""A placeholder such as sk-xxxxxxxxxxxxxxxxxxxxxxxx has fewer different ones."""
_SHOWN = 3
"""Letters of a secret that may be seen."""
_KEY_HEADERS = re.compile(r"authorization|.*(?:api|auth|access)[-_]?(?:key|token).*|.*secret.*", re.IGNORECASE)


def written_secrets(text: str, providers: Any) -> Iterator[str]:
    """What looks like a key in *text*, and the literal keys under *providers*, however they look."""
    for match in _SECRET.finditer(text) if any(begin in text for begin in _BEGINNINGS) else ():
        if len(set(match[0])) >= _LETTERS_OF_A_SECRET:
            yield match[0]
    for provider in providers.values() if isinstance(providers, dict) else ():
        if not isinstance(provider, dict):
            continue
        headers = provider.get("headers")
        given = [provider.get("api_key")]
        given += (
            [value for name, value in headers.items() if _KEY_HEADERS.fullmatch(name)]
            if isinstance(headers, dict)
            else []
        )
        for value in given:
            if isinstance(value, str) and "${" not in value and _looks_random(word := value.split(" ")[-1]):
                yield word


def _looks_random(word: str) -> bool:
    """A key rather than `none`, `ollama` or `not-needed`."""
    return len(word) >= 12 and len(set(word)) >= _LETTERS_OF_A_SECRET and any(c.isdigit() for c in word)


def starred(text: str, secrets: Sequence[str]) -> str:
    """*text* with the *secrets* starred out, as long as it was."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, secret[:_SHOWN] + "*" * (len(secret) - _SHOWN))
    return text


def masked(findings: Sequence[Finding], secrets: Sequence[str]) -> tuple[Finding, ...]:
    """*findings* with the *secrets* in their texts and source lines starred out."""
    if not secrets:
        return tuple(findings)

    return tuple(
        replace(
            finding,
            message=starred(finding.message, secrets),
            hint=None if finding.hint is None else starred(finding.hint, secrets),
            span=replace(finding.span, excerpt=starred(finding.span.excerpt, secrets)),
        )
        for finding in findings
    )
