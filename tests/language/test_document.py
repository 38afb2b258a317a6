"""YAML to values and places: YAML 1.2 core, and every hostile document refused."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agentdag.errors import Finding, SpecError
from agentdag.language.document import MAX_DOCUMENT_BYTES, decode, parse_document, read_text


def value(text: str) -> Any:
    document, findings = parse_document(text, "p.yaml")
    assert not findings, findings
    return document.value


def findings(text: str) -> list[Finding]:
    try:
        return parse_document(text, "p.yaml")[1]
    except SpecError as error:
        return list(error.findings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", "no"), ("on", "on"), ("yes", "yes"), ("1:30", "1:30"), ("true", True), ("False", False),
        ("~", None), ("", None), ("null", None), ("7", 7), ("-7", -7), ("+7", 7), ("0", 0), ("0o17", 15),
        ("0x1F", 31), ("200_000", 200_000), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("-.5e-1", -0.05),
        (".inf", math.inf), ("-.inf", -math.inf), ("'7'", "7"), ('"true"', "true"), ("2026-01-01", "2026-01-01"),
        ("1_", "1_"), ("_1", "_1"), ("0.5", 0.5), ("1.10", 1.1), ("- a", ["a"]), ("{a: 1}", {"a": 1}), ("=", "="),
        ("007a", "007a"), ("0b11", "0b11"), ("1__0", "1__0"), ("+", "+"), ("-", [None]), (".", "."),
    ],
)  # fmt: skip
def test_scalars_are_read_as_yaml_1_2_core(text: str, expected: Any) -> None:
    found = value(f"k: {text}" if not text.startswith(("- ", "-", "{")) or text[1:2].isdigit() else text)
    found = found["k"] if isinstance(found, dict) and "k" in found else found
    assert found == expected
    assert type(found) is type(expected)


def test_nan_is_a_number() -> None:
    assert math.isnan(value("k: .nan")["k"])


@pytest.mark.parametrize("number", ["012", "-012", "00", "01.5", "0_1"])
def test_a_number_with_a_leading_zero_is_refused(number: str) -> None:
    (finding,) = findings(f"k: {number}")
    assert finding.code == "AD105"
    assert (finding.span.line, finding.span.column) == (1, 4)


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        ("a: 1\na: 2", "AD104", 2, 1),
        ("a:\n  b: 1\n  c: 2\n  b: 3", "AD104", 4, 3),
        ("1: x", "AD105", 1, 1),
        ("true: x", "AD105", 1, 1),
        ("a: !!str 1", "AD103", 1, 4),
        ("a: !foo {}", "AD103", 1, 4),
        ("a: ! x", "AD103", 1, 4),
        ("a: &x [*x]", "AD103", 1, 8),
        ("a: *nobody", "AD103", 1, 4),
        ("---\na: 1\n---\nb: 1", "AD103", 3, 1),
        ("a: {{ x }}", "AD103", 1, 5),
        ("? [a]\n: b", "AD103", 1, 3),
        ("a: \x07", "AD103", 1, 4),
        ("a: x\x00", "AD103", 1, 5),
        ("a:\n\t- b", "AD102", 2, 1),
        ("a: b: c", "AD102", 1, 5),
        ("a: [", "AD102", 1, 5),
        ("a: 'x", "AD102", 1, 4),
        ("a: @x", "AD102", 1, 4),
        ("", "AD101", 1, 1),
        ("# only words\n", "AD101", 1, 1),
        ("<<: 3\na: 1", "AD103", 1, 5),
    ],
)
def test_what_is_refused_is_refused_with_its_place(text: str, code: str, line: int, column: int) -> None:
    first = findings(text)[0]
    assert (first.code, first.span.line, first.span.column) == (code, line, column), first


def test_all_duplicates_are_told_at_once() -> None:
    assert [f.span.line for f in findings("a: 1\na: 2\nb: {c: 1, c: 2}\na: 3")] == [2, 3, 4]


@pytest.mark.parametrize(
    "text", ["[" * 30_000, "{a: " * 30_000, "- " * 30_000, "a:\n" + "".join(" " * i + "- \n" for i in range(1, 99))]
)
def test_deep_nesting_is_refused_before_it_is_built(text: str) -> None:
    found = findings(text)
    assert len(found) == 1
    assert found[0].code in {"AD103", "AD102"}


def test_sixty_four_levels_are_fine_and_one_more_is_not() -> None:
    assert value("[" * 64 + "]" * 64)
    assert findings("[" * 65 + "]" * 65)[0].code == "AD103"


def test_an_alias_bomb_is_refused_in_no_time() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 11))
    started = time.process_time()
    found = findings(bomb)
    assert found[0].code == "AD103"
    assert "aliases" in found[0].message
    assert time.process_time() - started < 1


def test_anchors_and_merge_keys_work_and_point_to_where_they_stand() -> None:
    text = (
        "x-base: &base {model: m, retry: 1}\nnodes:\n  a:\n    <<: *base\n    retry: 2\n  b:\n    <<: [*base, {p: 1}]\n"
    )
    document, found = parse_document(text, "p.yaml")
    assert not found
    assert document.value["nodes"] == {"a": {"model": "m", "retry": 2}, "b": {"model": "m", "retry": 1, "p": 1}}
    assert document.span(("nodes", "a", "model")).line == 1
    assert document.span(("nodes", "a", "retry")).line == 5


def test_a_quoted_merge_key_is_a_key() -> None:
    assert value('"<<": 3') == {"<<": 3}


def test_a_byte_order_mark_and_crlf_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb:\r\n  - x\r\n")
    document, found = parse_document(read_text(file, "p.yaml"), "p.yaml")
    assert not found
    assert document.value == {"a": 1, "b": ["x"]}
    assert document.span(("b", 0)).line == 3
    assert document.source.line(1) == "a: 1"


@pytest.mark.parametrize(
    ("data", "line", "column"),
    [(b"a: 1\nb: \xff", 2, 4), (b"\xfe\xff\x00a", 1, 1), (b"x" * (MAX_DOCUMENT_BYTES + 1), 1, 1)],
)
def test_what_is_no_text_is_refused(data: bytes, line: int, column: int) -> None:
    with pytest.raises(SpecError) as caught:
        decode(data, "p.yaml")
    (finding,) = caught.value.findings
    assert (finding.code, finding.span.line, finding.span.column) == ("AD101", line, column)


@pytest.mark.parametrize("path", ["missing.yaml", "."])
def test_what_cannot_be_read_is_told(tmp_path: Path, path: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_text(tmp_path / path, path)
    assert caught.value.findings[0].code == "AD101"


def test_every_key_and_value_has_its_place() -> None:
    document, _ = parse_document("a:\n  b: [x, {c: d}]\n  e:\n", "p.yaml")
    span = document.span
    assert (span(("a", "b", 0)).line, span(("a", "b", 0)).column) == (2, 7)
    assert (span(("a", "b", 1, "c")).line, span(("a", "b", 1, "c")).column) == (2, 14)
    assert (span(("a", "b"), key=True).column, span(("a", "b"), key=True).end_column) == (3, 4)
    assert span(("a", "e")).column == 3, "an empty value is shown at its key"
    assert span(("a", "no", "such")).line == 1, "a missing value is shown at its nearest parent"


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co", "Cn"]), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdefgh_", min_size=1, max_size=6), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_what_json_says_is_read_back_as_it_was(plain: Any) -> None:
    """JSON is YAML 1.2: values, quoted text and nesting survive."""
    import json

    assert value(json.dumps({"k": plain}, ensure_ascii=False))["k"] == plain


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    found = findings(text.encode("utf-8", "replace").decode())
    assert all(f.span.line >= 1 and f.span.column >= 1 for f in found)


def test_this_reader_and_pyyaml_agree_on_the_samples() -> None:
    for file in (Path(__file__).parents[2] / "pipelines").glob("*.yaml"):
        assert value(file.read_text()) == yaml.safe_load(file.read_text())
