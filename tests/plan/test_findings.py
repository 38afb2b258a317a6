"""Every mistake in a pipeline: its code, its exact place, and the mend in the hint. All at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from agentdag.language.codes import codes
from agentdag.language.findings import to_json, to_text
from agentdag.plan.compile import Compiled

Compile = Callable[[str], Compiled]

MODEL = "defaults: {model: openai/m}\n"

WRONG = [
    # keys
    ("nodes: {a: {promt: hi, model: openai/m}}", [("AD201", "promt", "`prompt`")]),
    ("nodes: {a: {prompt: hi, model: openai/m}}\nnode: {}", [("AD201", "node", "`nodes`")]),
    ("nodes: {a: {prompt: hi, model: openai/m, depends_on: [b]}}", [("AD201", "depends_on", "needs")]),
    ("nodes: {a: {prompt: hi, model: openai/m, foreach: [b]}}", [("AD201", "foreach", "known here")]),
    ("nodes: {a: {prompt: hi, model: openai/m, barrier: all}}", [("AD201", "barrier", "")]),
    ("limits: {concurency: 3}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD201", "concurency", "`concurrency`")]),
    ("agents: {}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD201", "agents", "nodes")]),
    (MODEL + "nodes: {a: {prompt: hi, retry: {retrys: 2}}}", [("AD201", "retrys", "`retries`")]),
    # types
    (MODEL + "nodes: {a: {prompt: 3}}", [("AD202", "3", "quotes")]),
    (MODEL + "nodes: {a: {prompt: {a: b}}}", [("AD202", "{a: b}", "quotes")]),
    (MODEL + "nodes: {a: {prompt: hi, continue_on_failure: yes}}", [("AD202", "yes", "true and false")]),
    (MODEL + "nodes: {a: {prompt: hi, needs: b}, b: {prompt: hi}}", [("AD202", "b", "write [b]")]),
    (MODEL + "nodes: {a: {prompt: hi, timeout: 60}}", [("AD202", "60", "60s")]),
    (MODEL + "nodes: {a: {prompt: hi, timeout: 1 minute}}", [("AD202", "1 minute", "45s")]),
    (MODEL + "nodes: {a: {prompt: hi, timeout: 1:30}}", [("AD202", "1:30", "45s")]),
    (MODEL + "nodes: {a: {prompt: hi, max_tokens: 0}}", [("AD202", "0", "")]),
    (MODEL + "nodes: {a: {prompt: hi, temperature: 3}}", [("AD202", "3", "")]),
    (MODEL + "nodes: {a: {prompt: hi, temperature: .nan}}", [("AD202", ".nan", "")]),
    (MODEL + "nodes: {a: {prompt: hi, priority: hihg}}", [("AD202", "hihg", "`high`")]),
    (MODEL + "nodes: {a: {prompt: hi, retry: two}}", [("AD202", "two", "")]),
    (MODEL + "nodes: {a: {prompt: hi, retry: {on: [timeouts]}}}", [("AD202", "[timeouts]", "timeout")]),
    (MODEL + "nodes: {a: {prompt: hi, simulate: true}}", [("AD202", "true", "false")]),
    (MODEL + "nodes: {a: {prompt: hi, simulate: {fail: rate_limit}}}", [("AD202", "rate_limit", "[rate_limit]")]),
    (MODEL + "nodes: {a: {prompt: hi, stop: END}}", [("AD202", "END", "[END]")]),
    (MODEL + "nodes: {a: }", [("AD202", "a", "indented")]),
    (MODEL + "nodes: [a]", [("AD202", "[a]", "")]),
    (MODEL + "nodes: {}", [("AD203", "nodes", "prompt")]),
    ("limits: {concurrency: 0}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD202", "0", "")]),
    ("schedule: wave\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD202", "wave", "`waves`")]),
    ("version: 2\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD202", "2", "version: 1")]),
    ("- a", [("AD202", "- a", "nodes")]),
    ("just text", [("AD202", "just text", "nodes")]),
    ("name: x", [("AD203", "name: x", "<id>")]),
    # kinds
    (MODEL + "nodes: {a: {needs: []}}", [("AD203", "a", "prompt")]),
    (MODEL + "nodes: {a: {prompt: hi, call: json:dumps}}", [("AD204", "call", "two nodes")]),
    (MODEL + "nodes: {a: {call: json:dumps, with: {obj: 1}, temperature: 1}}", [("AD204", "temperature", "remove")]),
    (MODEL + "nodes: {a: {prompt: hi, with: {x: 1}}}", [("AD204", "with", "remove")]),
    (MODEL + "nodes: {a: {call: dumps}}", [("AD202", "dumps", "module:function")]),
    (MODEL + "nodes: {a: {call: no_such_module_x:f}}", [("AD207", "no_such_module_x:f", "looked for")]),
    (MODEL + "nodes: {a: {call: json:dumpz}}", [("AD207", "json:dumpz", "did you mean")]),
    (MODEL + "nodes: {a: {call: 'html:escape', with: {ss: hi}}}", [("AD207", "ss", "`s`")]),
    (MODEL + "nodes: {a: {call: 'html:escape', with: {quote: true}}}", [("AD207", "'html:escape'", "needs `s`")]),
    (MODEL + "nodes: {a: {prompt: ''}}", [("AD202", "''", "ask")]),
    (MODEL + "nodes: {a-b: {prompt: hi}}", [("AD202", "a-b", "a_b")]),
    (MODEL + "nodes: {items: {prompt: hi}}", [("AD202", "items", "another id")]),
    # models
    ("nodes: {a: {prompt: hi}}", [("AD203", "a", "model")]),
    ("nodes: {a: {prompt: hi, model: gpt-5}}", [("AD202", "gpt-5", "provider/model")]),
    ("nodes: {a: {prompt: hi, model: opnai/gpt-5}}", [("AD205", "opnai/gpt-5", "`openai`")]),
    ("nodes: {a: {prompt: hi, tier: fast}}", [("AD205", "fast", "tiers")]),
    ("tiers: {fast: openai/m}\nnodes: {a: {prompt: hi, tier: fats}}", [("AD205", "fats", "`fast`")]),
    ("tiers: {fast: openai/m}\nnodes: {a: {prompt: hi, tier: fast, model: openai/m}}", [("AD204", "tier", "keep one")]),
    ("tiers: {fast: m}\nnodes: {a: {prompt: hi, tier: fast}}", [("AD202", "m", "provider/model")]),
    ("providers: {mine: {type: opnai}}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD205", "opnai", "`openai`")]),
    ("providers: {mine: {}}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD205", "mine", "`type:`")]),
    ("nodes: {a: {prompt: hi, model: anthropic/m, seed: 3}}", [("AD204", "seed", "remove")]),
    ("providers: {openai: {region: x}}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD204", "region", "remove")]),
    ("providers: {openai: {base_url: 'host:80'}}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD202", "'host:80'", "http")]),
    ("node: {a: {prompt: hi}}", [("AD201", "node", "`nodes`")]),
    (MODEL + "nodes: {a: {prompt: hi, timeout: 0s}}", [("AD202", "0s", "more than 0")]),
    (MODEL + "nodes: {a: {prompt: hi, simulate: {fail: 2}}}", [("AD202", "2", "`fail`")]),
    ("inputs: {n: {type: number, default: .nan}}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD202", ".nan", "")]),
    ("inputs: {n: string}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD202", "string", "{type: string}")]),
    (MODEL + "nodes: {a: {prompt: 'say x about {{ x }}'}}", [("AD302", "x }}", "")]),
    (MODEL + "nodes: {b: {prompt: hi}, a: {prompt: '{{ nodes.b.output }} {{ nodes }}'}}", [("AD306", "nodes }}", "needs")]),
    # files
    (MODEL + "nodes: {a: {prompt_file: no.txt}}", [("AD206", "no.txt", "relative")]),
    (MODEL + "nodes: {a: {prompt_file: ../../etc/passwd}}", [("AD206", "../../etc/passwd", "--allow-path")]),
    (MODEL + "nodes: {a: {prompt_file: /etc/passwd}}", [("AD206", "/etc/passwd", "--allow-path")]),
    ("inputs: {f: {type: file, default: no.txt}}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD206", "no.txt", "relative")]),
    # inputs
    ("inputs: {n: {type: integer, default: x}}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD202", "x", "")]),
    ("inputs: {n: {enum: [a, b], default: c}}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD202", "c", "")]),
    ("inputs: {n: {type: sting}}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD202", "sting", "`string`")]),
    ("inputs: {a-b: {}}\n" + MODEL + "nodes: {a: {prompt: hi}}", [("AD202", "a-b", "inputs.<name>")]),
    # templates
    (MODEL + "nodes: {a: {prompt: '{{ nodes.b.output }}'}}", [("AD303", "nodes.b", "")]),
    (MODEL + "nodes: {abc: {prompt: hi}, d: {prompt: '{{ nodes.abd.output }}'}}", [("AD303", "nodes.abd", "`abc`")]),
    (MODEL + "nodes: {a: {prompt: 'x {{ nodes.a.output }}'}}", [("AD402", "nodes.a", "another")]),
    (MODEL + "nodes: {a: {prompt: '{{ inputs.x }}'}}", [("AD304", "inputs.x", "declare")]),
    ("inputs: {company: {}}\n" + MODEL + "nodes: {a: {prompt: '{{ inputs.compny }}'}}", [("AD304", "inputs.compny", "`company`")]),
    (MODEL + "nodes: {a: {prompt: hi}, b: {prompt: '{{ nodes.a }}'}}", [("AD305", "nodes.a", "nodes.a.output")]),
    (MODEL + "nodes: {a: {prompt: hi}, b: {prompt: '{{ nodes.a.outptu }}'}}", [("AD305", "nodes.a.outptu", "`output`")]),
    (MODEL + "nodes: {a: {prompt: hi}, b: {prompt: '{{ nodes.a.text }}'}}", [("AD305", "nodes.a.text", "fields of the answer")]),
    (MODEL + "nodes: {a: {prompt: hi}, b: {prompt: '{{ needs.a.output }}'}}", [("AD303", "needs.a", "needs")]),
    (MODEL + "nodes: {a: {prompt: hi}, b: {prompt: '{% for n in needs %}{% endfor %}'}}", [("AD306", "needs", "needs")]),
    (MODEL + "nodes: {a: {prompt: hi}, b: {prompt: '{{ nodes[inputs.w].output }}'}}\ninputs: {w: {}}", [("AD306", "nodes", "needs")]),
    (MODEL + "nodes: {a: {prompt: '{{ x }}'}}", [("AD302", "x", "")]),
    (MODEL + "nodes: {a: {prompt: '{{ item }}'}}", [("AD302", "item", "")]),
    (MODEL + "nodes: {a: {prompt: '{{ inputs.x | uper }}'}}\ninputs: {x: {}}", [("AD302", "uper", "`upper`")]),
    (MODEL + "nodes: {a: {prompt: '{% if x'}}", [("AD301", "'{% if x'", "")]),
    (MODEL + "nodes: {a: {call: json:dumps, with: {obj: ['{{ nodes.q.output }}']}}}", [("AD303", "nodes.q", "")]),
    (MODEL + "nodes: {a: {prompt: hi}}\noutputs: {x: '{{ nodes.b.output }}'}", [("AD303", "nodes.b", "")]),
    (MODEL + "nodes: {a: {prompt: hi}}\noutputs: {x: '{{ missing }}'}", [("AD302", "missing", "")]),
    # graph
    (MODEL + "nodes: {a: {prompt: hi, needs: [a]}}", [("AD402", "a", "remove")]),
    (MODEL + "nodes: {a: {prompt: hi, needs: [b]}}", [("AD401", "b", "")]),
    (MODEL + "nodes: {a: {prompt: hi}, b: {prompt: hi, needs: [a, a]}}", [("AD104", "a", "remove")]),
    (MODEL + "nodes: {a: {prompt: hi, needs: [b]}, b: {prompt: hi, needs: [a]}}", [("AD403", "b", "edges")]),
    (MODEL + "nodes: {a: {prompt: hi, needs: [c]}, b: {prompt: '{{ nodes.a.output }}'}, c: {prompt: hi, needs: [b]}}", [("AD403", "c", "a -> b")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[f"{i}-{w[1][0][0]}" for i, w in enumerate(WRONG)])
def test_a_mistake_is_told_once_at_its_place_with_its_mend(
    compiled: Compile, text: str, expected: list[tuple[str, str, str]]
) -> None:
    result = compiled(text)
    assert result.plan is None
    assert [finding.code for finding in result.findings] == [code for code, _, _ in expected], result.findings
    for finding, (_, marked, hint) in zip(result.findings, expected, strict=True):
        span = finding.span
        line = text.splitlines()[span.line - 1]
        assert line[span.column - 1 :].startswith(marked), (line[span.column - 1 :], marked)
        assert hint in f"{finding.message} {finding.hint}", finding
        assert finding.code in codes()


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
