"""Templates: what they read, what they refuse, and what they give."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdag.language.sandbox import View, environment
from agentdag.language.templates import NODE_NAMES, Template, TemplateError, ValueTemplate, read_problem


def template(text: str) -> Template:
    return Template(text, NODE_NAMES)


def reads(text: str) -> set[tuple[str, ...]]:
    return {(read.root, *read.path) for read in template(text).reads}


NAMES: dict[str, Any] = {
    "inputs": {"n": 3, "rows": [{"a": 1}], "items": "the key", "text": "x"},
    "nodes": View(
        "nodes",
        {
            "a": View("nodes.a", {"ok": True, "output": "A"}),
            "b": View("nodes.b", {"ok": False}, {"output": "b failed"}),
        },
    ),
    "needs": View("needs", {"a": View("nodes.a", {"ok": True, "output": "A"})}),
    "missing": ["b"],
    "run": {"id": "r1"},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ nodes.x.output }}", {("nodes", "x", "output")}),
        ("{{nodes.x.output.rows}} and {{ inputs.a }}", {("nodes", "x", "output", "rows"), ("inputs", "a")}),
        ('{{ nodes["x"].output }}', {("nodes", "x", "output")}),
        ("{{ nodes['x']['output'] }}", {("nodes", "x", "output")}),
        (
            "{% if nodes.x.ok %}{{ nodes.x.output | upper }}{% endif %}",
            {("nodes", "x", "ok"), ("nodes", "x", "output")},
        ),
        ("{% for r in nodes.x.output %}{{ r.name }}{% endfor %}", {("nodes", "x", "output")}),
        ("{% set n = nodes.x %}{{ n.output }}", {("nodes", "x")}),
        ("{{ nodes.x.output[nodes.y.output] }}", {("nodes", "x", "output"), ("nodes", "y", "output")}),
        ("{% raw %}{{ nodes.x.output }}{% endraw %}", set()),
        ("{# {{ nodes.x.output }} #}", set()),
        ("no template", set()),
    ],
)
def test_what_a_template_reads_is_found_without_running_it(text: str, expected: set[tuple[str, ...]]) -> None:
    assert reads(text) == expected
    assert not template(text).problems


def test_loops_over_needs_and_dynamic_reads_are_seen() -> None:
    assert template("{% for n in needs %}{{ n }}{% endfor %}").loops == 1
    assert template("\n{{ needs.items() | list }}").loops == 2
    assert template("{{ nodes[inputs.which].output }}").dynamic == 1
    assert template("{% for n in nodes.values() %}{{ n.output }}{% endfor %}").dynamic == 1
    assert template("{{ nodes.x.output }}").dynamic is None


@pytest.mark.parametrize(
    ("text", "code", "line", "hint"),
    [
        ("{{ input.x }}", "AD302", 1, "inputs"),
        ("a\n{{ nodse.x.output }}", "AD302", 2, "nodes"),
        ("{{ inputs.a | uper }}", "AD302", 1, "upper"),
        ("{{ inputs.a is definde }}", "AD302", 1, "defined"),
        ("{% if inputs.a %}", "AD301", 1, "endif"),
        ("{{ inputs.a }", "AD301", 1, "closed as they are opened"),
        ("\n\n{% endfor %}", "AD301", 3, ""),
        ("{% include 'x' %}", "AD301", 1, "prompt_file"),
        ("{% set nodes = 1 %}", "AD302", 1, "another name"),
        ("{{ lipsum() }}", "AD302", 1, ""),
        ("{% for x in inputs.a recursive %}{% endfor %}", "AD301", 1, "macro"),
        ("{{ inputs.a", "AD301", 1, "}}"),
        ("{{ " + "1+" * 3000 + "1 }}", "AD301", 1, ""),
        ("{{ inputs.a" + "|upper" * 3000 + " }}", "AD301", 1, ""),
        ("{{ " + "9" * 5001 + " }}", "AD301", 1, ""),
    ],
)
def test_what_is_wrong_in_itself_is_found_before_the_run(text: str, code: str, line: int, hint: str) -> None:
    (problem,) = template(text).problems
    assert (problem.code, problem.line) == (code, line)
    assert hint in (problem.hint or "")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("{{ nodes.a.outptu }}", "AD305", "output"),
        ("{{ nodes.a }}", "AD305", "nodes.a.output"),
        ("{{ nodes.a.error.knd }}", "AD305", "kind"),
        ("{{ inputs.nn }}", "AD304", "`n`"),
        ("{{ run.idd }}", "AD302", "id"),
    ],
)
def test_reads_of_what_is_not_there_are_found(text: str, code: str, words: str) -> None:
    problems = [read_problem(read, {"n": 1}) for read in template(text).reads]
    problem = next(problem for problem in problems if problem)
    assert problem.code == code
    assert words in (problem.hint or "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ inputs.n }}", 3),
        ("  {{ inputs.rows }}\n", [{"a": 1}]),
        ("{{ inputs.n + 1 }}", 4),
        ("{{ inputs.n > 2 }}", True),
        ("{{ inputs.rows | map(attribute='a') | list }}", [1]),
        ("{{ inputs.rows | map(attribute='a') }}", [1]),
        ("{{ none }}", None),
        ("n={{ inputs.n }}", "n=3"),
        ("{{ inputs.n }}{{ inputs.n }}", "33"),
        ("{% if true %}{{ inputs.n }}{% endif %}", "3"),
        ("{{ inputs.items }}", "the key"),
        ("plain", "plain"),
    ],
)
def test_one_single_expression_gives_the_value_itself(text: str, expected: Any) -> None:
    found = template(text).value(NAMES)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ inputs.rows }}", '[{"a": 1}]'),
        ("{{ inputs.rows }}{# #}", '[{"a": 1}]'),
        ("{{ true }}", "true"),
        ("{% for x in missing %}\n- {{ x }}\n{% endfor %}", "- b\n"),
        ("  {% if true %}\nyes\n  {% endif %}\nno", "yes\nno"),
        ("{{ nodes.b.output is defined }}", "false"),
        ("{{ nodes.b.output | default('nothing') }}", "nothing"),
        ("{% for n, node in needs.items() if node.ok %}{{ n }}={{ node.output }};{% endfor %}", "a=A;"),
        ("{{ inputs.text ~ inputs.n ~ [1] }}", "x3[1]"),
        ("one newline goes\n", "one newline goes"),
        ("{{ '{{ inputs.n }}' }}", "{{ inputs.n }}"),
    ],
)
def test_text_prints_as_the_language_says(text: str, expected: str) -> None:
    assert template(text).render(NAMES) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ nodes.b.output }}", "b failed"),
        ("{{ nodes.b.output }}{# slow #}", "b failed"),
        ("{{ none }}", "null"),
        ("{{ inputs.nothing }}", "nothing"),
        ("{{ inputs.rows[0].z }}", "z"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 'x' | int(default='y') + 1 }}", "TypeError"),
    ],
)
def test_what_only_data_decides_fails_that_template_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        template(text).render(NAMES)
    with pytest.raises(TemplateError):
        template(f"{text} .").value(NAMES)


@pytest.mark.parametrize(
    "text", ["{{ 1 if 2[0] else 3 }}", '{{ "abc".x and 1 }}', "{{ {[]: 1}.a }}", "{{ {{}: 1} | length }}"]
)
def test_expressions_are_not_run_while_they_are_read(text: str) -> None:
    assert not template(text).problems
    with pytest.raises(TemplateError):
        template(text).render({})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{{ range(3) }}", [0, 1, 2]), ("{{ inputs.rows[0].keys() }}", ["a"]), ("{{ (1, 2) }}", [1, 2]), ("{{ [inputs.rows | map(attribute='a')] }}", [[1]])],
)  # fmt: skip
def test_values_are_always_what_json_can_hold(text: str, expected: Any) -> None:
    assert template(text).value(NAMES) == expected


@pytest.mark.parametrize(
    "text", ["{{ inputs.rows[0].items }}", "{{ inputs.text.upper }}", "{{ inputs.nan }}", "{{ namespace(a=1) }}"]
)
def test_what_json_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(TemplateError):
        template(text).value({**NAMES, "inputs": {**NAMES["inputs"], "nan": float("nan")}})


def test_a_value_is_a_copy_that_its_owner_may_change() -> None:
    value = template("{{ inputs.rows }}").value(NAMES)
    value[0]["a"] = 99
    assert NAMES["inputs"]["rows"] == [{"a": 1}]


PATHS = st.sampled_from(["inputs.n", "inputs.text", "inputs.rows", "nodes.a.output", "run.id"])
PARTS = st.lists(st.one_of(PATHS.map("{{{{ {} }}}}".format), st.text("ab {}\n", max_size=5)), max_size=6).map("".join)


@given(PARTS)
def test_the_quick_way_and_jinja_give_the_same(text: str) -> None:
    quick = template(text)
    if quick._parts is None or quick.problems:
        return
    slow = template("{{ '' }}" + text)
    if slow.problems:
        return
    assert quick.render(NAMES) == slow.render(NAMES)
    assert [(r.root, r.path) for r in quick.reads] == [
        (r.root, r.path) for r in slow.reads if not (r.printed and len(r.path) == 1 and r.root == "nodes")
    ]


def test_values_are_templates_at_every_depth() -> None:
    value = ValueTemplate.of({"a": ["{{ inputs.n }}", 5], "b": {"c": "x{{ inputs.n }}"}}, NODE_NAMES)
    assert value.evaluate(NAMES) == {"a": [3, 5], "b": {"c": "x3"}}
    assert [path for path, _ in value.leaves] == [("a", 0), ("b", "c")]


def test_model_text_is_never_rendered_again() -> None:
    names = {**NAMES, "inputs": {"n": "{{ 7 * 7 }}{% endraw %}"}}
    assert template("{{ inputs.n }}").render(names) == "{{ 7 * 7 }}{% endraw %}"


def test_the_environment_is_made_once() -> None:
    assert environment() is environment()
