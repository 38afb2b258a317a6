"""Every mistake in a pipeline: its code, its exact place, and the mend in the hint. All at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from agentdag.language.findings import to_json, to_text
from agentdag.plan.compile import Compiled

Compile = Callable[[str], Compiled]


@pytest.mark.parametrize(
    "node",
    [
        "{promt: hi, model: openai/m}",
        "{prompt: hi, model: openai/m, needs: [x%d]}",
        "{prompt: '{{ nodes.y%d.output }}', model: openai/m}",
    ],
)
def test_thousands_of_mistakes_are_told_in_no_time(compiled: Compile, node: str) -> None:
    nodes = "\n".join(f"  n{i}: {node % i if '%d' in node else node}" for i in range(3000))
    started = time.process_time()
    found = compiled(f"nodes:\n{nodes}\n").findings
    assert len(found) == 3000
    assert time.process_time() - started < 20


@pytest.mark.parametrize("text", ["nodes: {a: {prompt: hi, model: openai/m, seed: 0x%s}}" % ("f" * 5000), "nodes: {a: {prompt: hi, model: openai/m, timeout: %ss}}" % ("9" * 5000)])  # fmt: skip
def test_numbers_of_any_length_are_refused_and_not_raised(compiled: Compile, text: str) -> None:
    (finding,) = compiled(text).findings
    assert finding.code == "AD202"
    assert len(finding.message) < 500


def test_every_problem_of_a_file_is_told_at_once(compiled: Compile) -> None:
    text = """\
        nodes:
          a: {promt: hi, model: openai/m}
          b: {prompt: "{{ nodes.zz.output }}", model: openai/m, timeout: 5}
          c: {prompt: hi, model: gpt}
          d: {prompt: hi, needs: [e], model: openai/m}
          e: {prompt: hi, needs: [d], model: openai/m, retry: x}
          e: {}
        """
    codes = [(finding.code, finding.span.line) for finding in compiled(text).findings]
    assert codes == [("AD201", 2), ("AD303", 3), ("AD202", 3), ("AD202", 4), ("AD403", 5), ("AD202", 6), ("AD104", 7)]


def test_places_inside_block_texts_are_exact(compiled: Compile) -> None:
    text = "inputs: {a: {}}\ndefaults: {model: openai/m}\nnodes:\n  x:\n    prompt: |\n      line one\n      and {{ inputs.b }} here\n      {% for q in z %}{% endfor %}\n"
    places = [(f.code, f.span.line, f.span.column) for f in compiled(text).findings]
    assert places == [("AD304", 7, 14), ("AD302", 8, 19)]


def test_places_inside_prompt_files_point_into_the_file(compiled: Compile, tmp_path: object) -> None:
    (tmp_path / "prompts").mkdir()  # type: ignore[attr-defined, operator]
    (tmp_path / "prompts" / "x.md").write_text("hello\n\n{{ nodes.nobody.output }}\n")  # type: ignore[operator]
    (finding,) = compiled("nodes: {a: {prompt_file: prompts/x.md, model: openai/m}}").findings
    assert finding.span.file.endswith("prompts/x.md")
    assert (finding.code, finding.span.line, finding.span.column) == ("AD303", 3, 4)


def test_the_text_shows_the_line_with_the_place_marked(compiled: Compile) -> None:
    shown = to_text(compiled("nodes: {a: {promt: hi, model: openai/m}}").findings)
    assert shown.split("p.yaml", 1)[1] == (
        ":1:13: error[AD201]: unknown key `promt`\n"
        "  |\n"
        "1 | nodes: {a: {promt: hi, model: openai/m}}\n"
        "  |             ^^^^^\n"
        "  = hint: did you mean `prompt`?"
    )


def test_a_very_long_line_is_shown_around_its_mark(compiled: Compile) -> None:
    text = 'nodes: {a: {prompt: "' + "x" * 5000 + '", promt: hi, model: openai/m}}'
    shown = to_text(compiled(text).findings)
    assert "promt" in shown
    assert max(map(len, shown.splitlines())) < 200


def test_escape_sequences_in_a_finding_are_inert(compiled: Compile) -> None:
    shown = to_text(compiled('nodes: {"a\\u001b[31m": {prompt: hi, model: openai/m}}').findings)
    assert "\x1b" not in shown


def test_json_is_as_the_contract_says(compiled: Compile) -> None:
    import json

    findings = compiled("nodes: {a: {promt: hi, model: openai/m}}").findings
    told = json.loads(to_json(findings, 1))
    assert (told["files"], told["errors"], told["warnings"]) == (1, 1, 0)
    (entry,) = told["findings"]
    assert set(entry) == {"code", "severity", "file", "line", "column", "end_line", "end_column", "message", "hint"}
    assert (entry["line"], entry["column"], entry["end_line"], entry["end_column"]) == (1, 13, 1, 18)


def test_own_keys_are_left_alone(compiled: Compile) -> None:
    text = "x-m: &m {model: openai/m}\nnodes: {x-t: 3, a: {<<: *m, prompt: hi, x-note: [1]}}\nlimits: {x-why: because}"
    assert compiled(text).findings == ()
