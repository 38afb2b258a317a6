"""Findings as other programs read them: GitHub's annotations, SARIF, JUnit.

GitHub: workflow commands, https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
SARIF: version 2.1.0, https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
JUnit: the form that CI servers have settled on; a test suite a file, a test case a finding.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from agentdag._version import __version__
from agentdag.errors import Finding
from agentdag.language.codes import codes
from agentdag.language.findings import inert

_SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_github(findings: Sequence[Finding]) -> str:
    """One annotation a finding, errors first: GitHub shows ten of a kind."""
    ranked = sorted(findings, key=lambda finding: finding.severity != "error")
    return "".join(f"{_annotation(finding)}\n" for finding in ranked)


def _annotation(finding: Finding) -> str:
    span = finding.span
    place = {
        "file": _relative(span.file),
        "line": span.line,
        "endLine": span.end_line,
        "col": span.column,
        "endColumn": span.end_column,
        "title": f"agentdag {finding.code}",
    }
    if span.end_line != span.line:  # GitHub takes columns of one line only
        del place["col"], place["endColumn"]
    told = ",".join(f"{name}={_escaped(str(value), property_=True)}" for name, value in place.items())
    return f"::{finding.severity} {told}::{_escaped(_whole_message(finding), property_=False)}"


def _escaped(text: str, *, property_: bool) -> str:
    text = text.encode("utf-8", "replace").decode()
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if property_ else text


def _whole_message(finding: Finding) -> str:
    """Message and hint, for formats that have no place for a hint."""
    hint = f"\n{inert(finding.hint)}" if finding.hint else ""
    return inert(finding.message) + hint


def _relative(file: str) -> str:
    """*file* from the working directory on, where it is inside: that is what annotations are shown at."""
    path = Path(file)
    try:
        return path.absolute().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.as_posix()


def to_sarif(findings: Sequence[Finding]) -> str:
    """One run of one tool, with the rules that its results name."""
    rules = sorted({finding.code for finding in findings})
    run = {
        "tool": {
            "driver": {
                "name": "agentdag",
                "semanticVersion": __version__,
                "rules": [_rule(code) for code in rules],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, rules, count) for finding, count in _numbered(findings)],
    }
    return json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(name: str) -> dict[str, Any]:
    code = codes()[name]
    help_ = f"{code.why}\n\nWrong:\n\n{code.wrong}\nRight:\n\n{code.right}"
    markdown = f"{code.why}\n\nWrong:\n\n```yaml\n{code.wrong}```\n\nRight:\n\n```yaml\n{code.right}```\n"
    return {
        "id": code.code,
        "shortDescription": {"text": code.title},
        "fullDescription": {"text": code.why},
        "help": {"text": help_, "markdown": markdown},
        "defaultConfiguration": {"level": code.severity},
    }


def _numbered(findings: Sequence[Finding]) -> Iterator[tuple[Finding, int]]:
    """Each finding, and how many with the same words stand above it in its file."""
    seen: dict[tuple[str, str, str], int] = {}
    for finding in findings:
        key = finding.span.file, finding.code, finding.message
        seen[key] = seen.get(key, -1) + 1
        yield finding, seen[key]


def _result(finding: Finding, rules: Sequence[str], count: int) -> dict[str, Any]:
    span = finding.span
    region: dict[str, Any] = {
        "startLine": span.line,
        "startColumn": span.column,
        "endLine": span.end_line,
        "endColumn": span.end_column,
    }
    if span.excerpt:
        region["snippet"] = {"text": inert(span.excerpt)}
    location = {"artifactLocation": {"uri": quote(os.fsencode(_relative(span.file)))}, "region": region}
    known = f"{finding.code}:{_relative(span.file)}:{finding.message}:{count}"
    return {
        "ruleId": finding.code,
        "ruleIndex": rules.index(finding.code),
        "level": finding.severity,
        "message": {"text": _whole_message(finding)},
        "locations": [{"physicalLocation": location}],
        "partialFingerprints": {"agentdag/v1": hashlib.sha256(known.encode("utf-8", "replace")).hexdigest()[:32]},
    }


def to_junit(findings: Sequence[Finding], files: Sequence[str], *, strict: bool) -> str:
    """A failure for each finding that fails the check; other findings are told in their suite's output."""
    by_file: dict[str, list[Finding]] = {file: [] for file in files}
    for finding in findings:
        by_file.setdefault(finding.span.file, []).append(finding)
    failing = sum(_fails(finding, strict=strict) for finding in findings)
    suites = [_suite(file, found, strict=strict) for file, found in by_file.items()]
    tests = sum(len(suite.findall("testcase")) for suite in suites)
    root = ET.Element("testsuites", name="agentdag", tests=str(tests), failures=str(failing), errors="0")
    root.extend(suites)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _fails(finding: Finding, *, strict: bool) -> bool:
    return strict or finding.severity == "error"


def _suite(file: str, findings: Sequence[Finding], *, strict: bool) -> ET.Element:
    failing = [finding for finding in findings if _fails(finding, strict=strict)]
    name = _xml(_relative(file))
    tests, failures = str(max(1, len(failing))), str(len(failing))
    suite = ET.Element("testsuite", name=name, tests=tests, failures=failures, errors="0", skipped="0")
    for finding in failing:
        place = f"line {finding.span.line}, column {finding.span.column}"
        title = f"{finding.code} {place}"
        case = ET.SubElement(suite, "testcase", name=title, classname=name, file=name, line=str(finding.span.line))
        failure = ET.SubElement(case, "failure", type=finding.code, message=_xml(finding.message))
        failure.text = _xml(f"{place}: {_whole_message(finding)}\n{finding.span.excerpt}")
    if not failing:
        ET.SubElement(suite, "testcase", name="valid", classname=name, file=name)
    warnings = [finding for finding in findings if finding not in failing]
    if warnings:
        told = (f"{w.span.line}:{w.span.column}: {w.code}: {_whole_message(w)}" for w in warnings)
        ET.SubElement(suite, "system-out").text = _xml("\n".join(told))
    return suite


def _xml(text: str) -> str:
    """*text* without the characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)
