"""Keys that were written into a pipeline: found in its text, and kept out of everything that is printed about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from agentdag.errors import Finding

_BEGUN = re.compile(
    r"(?<![A-Za-z0-9_])(?:sk-[A-Za-z0-9_-]{20,}|A[KS]IA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|AIza[A-Za-z0-9_-]{35}|"
    r"github_pat_[A-Za-z0-9_]{30,}|glpat-[A-Za-z0-9_-]{20,}|xox[abprs]-[A-Za-z0-9-]{20,}|hf_[A-Za-z0-9]{30,}|"
    r"(?:gsk|r8|xai|pplx|nvapi|sk_live|sk_test)[-_][A-Za-z0-9]{20,}|"
    r"eyJ[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{15,}\.[A-Za-z0-9_-]{10,})"
)
"""Keys that say themselves what they are."""
_NAMES = {
    "key": re.compile(r"(?:api|access|subscription)[-_]?\Z"),
    "token": re.compile(r"[-_]\Z"),
    "secret": re.compile(""),
    "password": re.compile(""),
    "authorization": re.compile(""),
}
"""What a key is called by whatever stands beside it: a word, and what comes before the word."""
_VALUE = re.compile(
    r"[\"']?[ \t]*(?::[ \t\[]*|=)[\"']?(?:Bearer |Basic )?(?P<key>[^\s\"'\[\],{}&#$]{12,})", re.IGNORECASE
)
_IN_ADDRESS = re.compile(r"://[^/\s:@\"']+:(?P<key>[^@\s/\"'$]{12,})@")
_FOUND_BY = (
    *("sk-", "AKIA", "ASIA", "AIza", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "hf_"),
    *("gsk", "r8_", "r8-", "xai_", "xai-", "pplx", "nvapi", "sk_", "eyJ"),
)
"""One of these begins each key that says what it is: to look for these first is quicker."""
_MIXED = re.compile(r"(?=[^\W_]*\d)(?=[^\W_]*[A-Za-z])[^\W_]{8,}")
"""A run of letters and digits, as no word and no date has."""
_LETTERS = 10
"""A placeholder such as sk-xxxxxxxxxxxxxxxxxxxxxxxx has fewer different ones."""
_SHOWN = 3
"""Letters of a secret that may be seen."""
_TOLD = 8
"""So many letters of a secret are as good as all of it, where a long value was cut."""


def written_secrets(text: str) -> Iterator[str]:
    """What looks like a key in *text*, each once."""
    begun = _BEGUN.finditer(text) if any(begin in text for begin in _FOUND_BY) else ()
    found = [match[0] for match in begun]
    found += [*_called(text), *(match["key"] for match in _IN_ADDRESS.finditer(text))]
    real = dict.fromkeys(each for each in found if len(set(each)) >= _LETTERS and _MIXED.search(each))
    return (each for each in real if not any(each != other and each in other for other in real))


def _called(text: str) -> Iterator[str]:
    """The values of whatever is called a key. Looks for the words first: an expression alone is ten times slower."""
    lower = text.lower()
    for word, before in _NAMES.items():
        at = lower.find(word)
        while at >= 0:
            end = at + len(word)
            if (match := _VALUE.match(text, end)) and before.search(lower[max(0, at - 13) : at]):
                yield match["key"]
            at = lower.find(word, end)


def starred(text: str, secrets: Sequence[str]) -> str:
    """*text* with the *secrets*, and long beginnings of them, starred out, as long as it was."""
    for secret in sorted(secrets, key=len, reverse=True):
        begin = text.find(secret[:_TOLD])
        while begin >= 0:
            end = begin
            while end < len(text) and end - begin < len(secret) and text[end] == secret[end - begin]:
                end += 1
            text = text[: begin + _SHOWN] + "*" * (end - begin - _SHOWN) + text[end:]
            begin = text.find(secret[:_TOLD], end)
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
