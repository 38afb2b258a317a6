"""What the parsers of YAML and Jinja complain of, in words that say the mend."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TAGS = ("if", "for", "set", "with", "macro", "filter", "call", "raw")
_CLOSING = {"end of print statement": "}}", "end of statement block": "%}", "end of template": "the end"}


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong and the mend; `needle` is the word to mark, `at_opening` whether the opening is the place."""

    message: str
    hint: str | None = None
    needle: str = ""
    at_opening: bool = False


_YAML = (
    (
        "mapping values are not allowed",
        Complaint(
            "a `:` cannot stand here: a value has begun already",
            "put quotes around text that holds `: `, or check the indentation",
        ),
    ),
    (
        "block sequence entries",
        Complaint("a list cannot begin in this line", "put each `- ` on a line of its own"),
    ),
    (
        "unknown escape",
        Complaint("text in double quotes knows no such escape", "write the backslash twice, or use single quotes"),
    ),
    (
        "comment or line break",
        Complaint("nothing may follow the sign that begins a block of text", "begin the text on the next line"),
    ),
    (
        "could not find expected ':'",
        Complaint("a `:` is due behind this", "or indent it as part of the text above", at_opening=True),
    ),
)


def yaml_complaint(problem: str, context: str, line: str, column: int, opened: tuple[int, int] | None) -> Complaint:
    """PyYAML's *problem* at *column* (from 0) of *line*.

    *opened* is where, by line and column from 1, that began which its *context* speaks of.
    """
    here, ended = line[column : column + 1], not line[column:].strip()
    begun = f"line {opened[0]}, column {opened[1]}" if opened else "above"
    if "\t" in line[: len(line) - len(line.lstrip())] or here == "\t" or "tab character" in problem:
        return Complaint("a tab cannot indent YAML", "indent with spaces")
    if "unexpected end of stream" in problem and "quoted" in context:
        return Complaint("this quote is never closed", "close it, or begin a long text with `|`", at_opening=True)
    if match := re.search(r"did not find expected ',' or '(.)'", problem):
        opening = "[" if match[1] == "]" else "{"
        if ended:
            return Complaint(f"this `{opening}` is never closed", f"close it with `{match[1]}`", at_opening=True)
        return Complaint(f"a `,` or `{match[1]}` is due here", f"the `{opening}` stands in {begun}")
    if "did not find expected key" in problem or "expected '-' indicator" in problem:
        if line[:column].strip():
            return Complaint("text follows a value that is complete", "put quotes around the whole text")
        return Complaint("this line fits nothing above it", f"indent it like what it belongs to: {begun}")
    if "cannot start any token" in problem:
        return Complaint(f"plain text cannot begin with `{here}`", "put quotes around it")
    return next((complaint for words, complaint in _YAML if words in problem), Complaint(problem))


def jinja_complaint(message: str) -> Complaint:
    """Jinja's *message* about a template that it cannot parse."""
    return _block_complaint(message) or _expression_complaint(message) or Complaint(message)


def _block_complaint(message: str) -> Complaint | None:
    """About tags, and what is opened and closed."""
    wrong = re.match(r"Encountered unknown tag '(\w+)'", message)
    if match := re.search(r"innermost block that needs to be closed is '(\w+)'", message):
        tag, hint = match[1], f"close it with {{% end{match[1]} %}}"
        if wrong:
            return Complaint(f"`{wrong[1]}` cannot close `{tag}`", hint, wrong[1])
        return Complaint(f"this `{tag}` is never closed", hint, tag)
    if wrong and (wrong[1] in {"else", "elif"} or (wrong[1].startswith("end") and wrong[1][3:] in _TAGS)):
        return Complaint(f"nothing is open that `{wrong[1]}` belongs to", "remove it, or open it before", wrong[1])
    if wrong:
        return Complaint(f"there is no tag `{wrong[1]}`", f"known are {', '.join(_TAGS)}", wrong[1])
    if match := re.match(r"unexpected end of template, expected '(.+)'", message):
        closing = _CLOSING.get(match[1], "}}")
        return Complaint(f"this `{{{closing[0].replace('}', '{')}` is never closed", f"close it with {closing}")
    if "end of comment tag" in message:
        return Complaint("this `{#` is never closed", "close it with #}")
    return None


def _expression_complaint(message: str) -> Complaint | None:
    """About what stands between the braces."""
    if "unexpected '}'" in message or message.endswith("got '}'"):
        return Complaint("a single `}` cannot stand here", "`{{ ... }}` and `{% ... %}` are closed as they are opened")
    if match := re.match(r"unexpected char (['\"])(.)\1 at", message):
        if match[2] in "'\"":
            return Complaint("a quote in this template is never closed", f"close it with {match[2]}")
        return Complaint(f"`{match[2]}` means nothing in an expression")
    if match := re.match(r"expected token '(.+?)', got '(.+?)'", message):
        due, got = (_CLOSING.get(word, word) for word in match.groups())
        if due == "}}":
            return Complaint(f"`{got}` cannot follow here", "one expression stands between {{ and }}", got)
        due = "a name" if due == "name" else f"`{due}`"
        return Complaint(f"{due} is due before `{got}`", None, got if got.isidentifier() else "")
    if match := re.match(r"Expected an expression, got '(.+?)'", message) or re.match(r"unexpected '(.+?)'$", message):
        return Complaint(f"an expression is due before `{_CLOSING.get(match[1], match[1])}`")
    return None
