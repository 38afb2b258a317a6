"""Findings as GitHub, SARIF and JUnit have them; SARIF is read back by Microsoft's own reader."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from sarif import loader

from agentdag.errors import Finding, Span
from agentdag.language.reports import to_github, to_junit, to_sarif


@pytest.fixture
def findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / "a dir, 100% odd: ü" / "p.yaml"
    return [
        Finding("AD601", "warning", Span("p.yaml", 7, 3, 7, 9, "  memo: x"), "50% may\nbe missing", "ask `ok`, first"),
        Finding(
            "AD201", "error", Span(str(odd), 2, 5, 2, 10, "    tmeout: 3s \x1b[31m"), "unknown key `a<b>&\x01`", None
        ),
        Finding("AD403", "error", Span("p.yaml", 3, 1, 5, 4, "nodes: \U0001f600"), "a cycle: a -> b -> a", "cut it"),
    ]


def test_github_shows_errors_first_and_escapes_what_would_end_a_field(findings: list[Finding]) -> None:
    lines = to_github(findings).splitlines()
    assert [line.split(" ", 1)[0] for line in lines] == ["::error", "::error", "::warning"]
    assert lines[0].startswith(
        "::error file=a dir%2C 100%25 odd%3A ü/p.yaml,line=2,endLine=2,col=5,endColumn=10,title="
    )
    assert "col=" not in lines[1], "GitHub takes columns of one line only"
    assert lines[2].endswith("title=agentdag AD601::50%25 may be missing%0Aask `ok`, first")
    assert "\x1b" not in "".join(lines)


def test_sarif_is_read_back_by_a_reader_of_another_house(findings: list[Finding], tmp_path: Path) -> None:
    file = tmp_path / "out.sarif"
    file.write_text(to_sarif(findings), encoding="utf-8")
    read = loader.load_sarif_file(str(file))
    assert read.get_result_count() == 3
    assert read.get_distinct_tool_names() == ["agentdag"]
    records = read.get_records()
    told = {(record["Severity"], record["Code"], record["Location"], int(record["Line"])) for record in records}
    assert ("warning", "AD601", "p.yaml", 7) in told
    assert {severity for severity, *_ in told} == {"warning", "error"}
    assert any("be missing" in str(record["Description"]) for record in records)


def test_sarif_says_what_viewers_need(findings: list[Finding]) -> None:
    (run,) = json.loads(to_sarif(findings))["runs"]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        rule = rules[result["ruleIndex"]]
        assert rule["id"] == result["ruleId"]
        assert rule["defaultConfiguration"]["level"] == result["level"]
        region = result["locations"][0]["physicalLocation"]["region"]
        assert (region["startLine"], region["startColumn"]) < (region["endLine"], region["endColumn"])
    uris = [result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in run["results"]]
    assert uris[1] == "a%20dir%2C%20100%25%20odd%3A%20%C3%BC/p.yaml"
    prints = {result["partialFingerprints"]["agentdag/v1"] for result in run["results"]}
    assert len(prints) == 3
    assert run["columnKind"] == "unicodeCodePoints"


def test_a_fingerprint_outlives_lines_that_are_added_above() -> None:
    first, moved = (
        Finding("AD603", "warning", Span("p.yaml", line, 3, line, 9, "x"), "nobody reads it") for line in (3, 40)
    )
    prints = [json.loads(to_sarif([each]))["runs"][0]["results"][0]["partialFingerprints"] for each in (first, moved)]
    assert prints[0] == prints[1]


@pytest.mark.parametrize(("strict", "failures"), [(False, 2), (True, 3)])
def test_junit_fails_what_fails_the_check(findings: list[Finding], strict: bool, failures: int) -> None:
    root = ET.fromstring(to_junit(findings, ["p.yaml", "good.yaml"], strict=strict))
    assert root.get("failures") == str(failures)
    assert len(root.findall(".//failure")) == failures
    assert root.get("tests") == str(len(root.findall(".//testcase")))
    good = root.find("testsuite[@name='good.yaml']")
    assert good is not None
    assert [case.get("name") for case in good] == ["valid"]
    warned = root.find("testsuite[@name='p.yaml']/system-out")
    assert (warned is None) is strict
