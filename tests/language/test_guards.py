"""Reads of outputs that may be missing: found where the read fails in some run, and only there."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentdag.calls import NO_USAGE
from agentdag.engine.scope import view_of
from agentdag.events import NodeSettled, Status
from agentdag.language.guards import unguarded
from agentdag.language.sandbox import View
from agentdag.language.templates import NODE_NAMES, Template, TemplateError

NODES = ("x", "y")

GUARDED = [
    "{% if nodes.x.ok %}{{ nodes.x.output }}{% endif %}",
    "{% if nodes['x']['ok'] %}{{ nodes['x']['output'] }}{% endif %}",
    "{% if not nodes.x.ok %}no{% elif nodes.y.ok %}{{ nodes.x.output }}{{ nodes.y.output }}{% else %}{{ nodes.x.output }}{% endif %}",
    "{% if nodes.x.ok and nodes.y.ok %}{{ nodes.x.output }}{{ nodes.y.output }}{% endif %}",
    "{% if not nodes.x.ok or not nodes.y.ok %}{% else %}{{ nodes.x.output }}{{ nodes.y.output }}{% endif %}",
    "{{ nodes.x.ok and nodes.x.output }}",
    "{{ not nodes.x.ok or nodes.x.output }}",
    "{{ nodes.x.output if nodes.x.ok else 'no' }}",
    "{{ nodes.x.output if nodes.x.ok }}",
    "{{ 'no' if not nodes.x.ok else nodes.x.output }}",
    "{{ nodes.x.output | default('no') | upper }}",
    "{{ nodes.x.output | d('no') }}",
    "{% if nodes.x.output is defined %}{{ nodes.x.output }}{% endif %}",
    "{% if nodes.x.output is undefined %}{% else %}{{ nodes.x.output }}{% endif %}",
    "{% if nodes.x.output is string %}{{ nodes.x.output }}{% endif %}",
    "{% if nodes.x.status == 'succeeded' %}{{ nodes.x.output }}{% endif %}",
    "{% if nodes.x.status != 'succeeded' %}{% else %}{{ nodes.x.output }}{% endif %}",
    "{% if nodes.x.ok == true %}{{ nodes.x.output }}{% endif %}",
    "{% if nodes.x.ok is true %}{{ nodes.x.output }}{% endif %}",
    "{% if 'x' not in missing %}{{ nodes.x.output }}{% endif %}",
    "{% if 'x' in missing %}{% else %}{{ nodes.x.output }}{% endif %}",
    "{% if not missing %}{{ nodes.x.output }}{% endif %}",
    "{% if missing | length == 0 %}{{ nodes.x.output }}{% endif %}",
    "{% if missing | length > 0 %}{% else %}{{ nodes.x.output }}{% endif %}",
    "{% if not missing or nodes.x.ok %}{{ nodes.x.output }}{% endif %}",
    "{% if missing and not nodes.x.ok %}{% else %}{{ nodes.x.output }}{% endif %}",
    "{% if missing == [] %}{{ nodes.x.output }}{% endif %}",
    "{% for name, node in needs.items() if node.ok %}{{ node.output }}{% endfor %}",
    "{% for node in needs.values() %}{% if node.ok %}{{ node.output }}{% endif %}{% endfor %}",
    "{% for name in needs %}{% if needs[name].ok %}{{ needs[name].output }}{% endif %}{% endfor %}",
    "{% for name in needs if name not in missing %}{{ needs[name].output }}{% endfor %}",
    "{% for name, node in needs | dictsort %}{{ node.output | default('no') }}{% endfor %}",
    "{{ needs.values() | selectattr('ok') | map(attribute='output') | join }}",
    "{{ [nodes.x.output, nodes.y.output] | select('defined') | join }}",
    "{% set t = nodes.x.output %}{{ t | default('no') }}",
    "{% set ok = nodes.x.ok %}{% if ok %}{{ nodes.x.output }}{% endif %}",
    "{% set n = nodes.x %}{% if n.ok %}{{ n.output }}{% endif %}",
    "{% with n = nodes.x %}{{ n.output if n.ok else 'no' }}{% endwith %}",
    "{% if nodes.x.ok %}{% for row in [1, 2] %}{{ nodes.x.output }}{% endfor %}{% endif %}",
    "{{ nodes.x.status }} {{ nodes.x.latency }} {{ nodes.x.ok }}",
    "{% raw %}{{ nodes.x.output }}{% endraw %}{# {{ nodes.x.output }} #}",
]
UNGUARDED = [
    ("{{ nodes.x.output }}", {"x"}),
    ("{{ needs.x.output }}", {"x"}),
    ("{{ nodes['x'].output }}", {"x"}),
    ("{% if nodes.y.ok %}{{ nodes.x.output }}{% endif %}", {"x"}),
    ("{% if nodes.x.ok %}{% else %}{{ nodes.x.output }}{% endif %}", {"x"}),
    ("{% if nodes.x.ok or nodes.y.ok %}{{ nodes.x.output }}{% endif %}", {"x"}),
    ("{% if nodes.x.ok %}{{ nodes.x.output }}{% endif %}{{ nodes.x.output }}", {"x"}),
    ("{% if nodes.x.output %}yes{% endif %}", {"x"}),
    ("{{ nodes.x.output | upper | default('no') }}", {"x"}),
    ("{{ nodes.x.output.rows | default('no') }}", {"x"}),
    ("{% if nodes.x.status != 'failed' %}{{ nodes.x.output }}{% endif %}", {"x"}),
    ("{% for row in nodes.x.output %}{{ row }}{% endfor %}", {"x"}),
    ("{% set t = nodes.x.output %}{{ t }}", {"x"}),
    ("{% set t = nodes.x.output | upper %}", {"x"}),
    ("{% for name, node in needs.items() %}{{ node.output }}{% endfor %}", {None}),
    ("{% for name in needs %}{{ needs[name].output }}{% endfor %}", {None}),
    ("{{ needs.values() | map(attribute='output') | join }}", {None}),
    ("{{ nodes.x.output }}{{ nodes.y.output }}", {"x", "y"}),
    ("{{ nodes.x.output ~ nodes.y.output }}", {"x", "y"}),
    ("{{ [nodes.x.output] | join }}", {"x"}),
]  # fmt: skip


def renders(text: str, absent: tuple[str, ...], status: Status) -> bool:
    """Whether *text* renders in the world in which the nodes in *absent* ended with *status*."""
    views = {name: view_of(name, settled(name, status if name in absent else Status.SUCCEEDED)) for name in NODES}
    names = {"nodes": View("nodes", views), "needs": View("needs", views), "missing": list(absent), "inputs": {}}
    try:
        Template(text, NODE_NAMES).render(names)
    except TemplateError as error:
        return "has no output" not in str(error)
    return True


def settled(name: str, status: Status) -> NodeSettled:
    output = f"answer of {name}" if status is Status.SUCCEEDED else None
    return NodeSettled("run", 0.0, name, status, 1.0, 1, None, NO_USAGE, output, None, None, {})


def worlds() -> list[tuple[tuple[str, ...], Status]]:
    absent = [chosen for size in range(3) for chosen in itertools.combinations(NODES, size)]
    return [(each, status) for each in absent for status in (Status.FAILED, Status.TIMED_OUT)]


def fails_somewhere(text: str) -> bool:
    return not all(renders(text, absent, status) for absent, status in worlds())


@pytest.mark.parametrize("text", GUARDED)
def test_what_asks_first_is_guarded(text: str) -> None:
    assert unguarded(text) == ()
    assert not fails_somewhere(text)


@pytest.mark.parametrize(("text", "read"), UNGUARDED)
def test_what_does_not_ask_is_found(text: str, read: set[str | None]) -> None:
    assert {each.node for each in unguarded(text)} == read
    assert fails_somewhere(text)


def test_the_place_is_that_of_the_read() -> None:
    (found,) = unguarded("first\n{% for name, it in needs.items() %}\n{{ it.output }}{% endfor %}")
    assert (found.line, found.needle) == (3, "it.output")


def test_nothing_is_said_of_macros_whose_callers_may_have_asked() -> None:
    text = "{% macro show() %}{{ nodes.x.output }}{% endmacro %}{% if nodes.x.ok %}{{ show() }}{% endif %}"
    assert unguarded(text) == ()


TESTS = st.sampled_from(
    [f"nodes.{n}.ok" for n in NODES]
    + [f"nodes.{n}.status == 'succeeded'" for n in NODES]
    + [f"nodes.{n}.output is defined" for n in NODES]
    + [f"'{n}' not in missing" for n in NODES]
    + ["not missing", "missing", "missing | length == 0", "true"]
)
CONDITIONS = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        inner.map(lambda test: f"not ({test})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})"),
    ),
    max_leaves=4,
)
READS = st.sampled_from(
    [f"{{{{ nodes.{n}.output }}}}" for n in NODES]
    + [f"{{{{ nodes.{n}.output | default('-') }}}}" for n in NODES]
    + [f"{{% set v{n} = nodes.{n}.output %}}" for n in NODES]
    + [f"{{{{ v{n} | default(nodes.{n}.status) }}}}" for n in NODES]
    + ["text", "{% for k, v in needs.items() if v.ok %}{{ v.output }}{% endfor %}"]
)
TEMPLATES = st.recursive(
    READS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.tuples(CONDITIONS, inner).map(lambda t: f"{{% if {t[0]} %}}{t[1]}{{% endif %}}"),
        st.tuples(CONDITIONS, inner, inner).map(lambda t: f"{{% if {t[0]} %}}{t[1]}{{% else %}}{t[2]}{{% endif %}}"),
        st.tuples(CONDITIONS, CONDITIONS, inner, inner).map(
            lambda t: f"{{% if {t[0]} %}}{t[2]}{{% elif {t[1]} %}}{t[3]}{{% endif %}}"
        ),
        st.tuples(CONDITIONS, TESTS).map(lambda t: f"{{{{ 'a' if {t[0]} else nodes.x.output | d('b') }}}}"),
    ),
    max_leaves=6,
)


def conditions_over(names: list[str]) -> st.SearchStrategy[str]:
    """Conditions that ask each of *names* once, in one way or another."""
    forms = [
        "nodes.{n}.ok",
        "not nodes.{n}.ok",
        "nodes.{n}.status == 'succeeded'",
        "'{n}' in missing",
        "nodes.{n}.output is defined",
    ]
    asked = [st.sampled_from(forms).map(lambda form, n=name: form.replace("{n}", n)) for name in names]
    return st.tuples(st.sampled_from([" and ", " or "]), *asked).map(lambda parts: parts[0].join(parts[1:]))


@settings(max_examples=800)
@given(TEMPLATES)
def test_what_is_guarded_renders_in_every_world(text: str) -> None:
    set_in_one_arm = "{% set" in text  # nothing is said of a variable that may or may not have been set
    if not unguarded(text) and not set_in_one_arm:
        assert not fails_somewhere(text)


@settings(max_examples=500)
@given(st.lists(st.sampled_from(NODES), min_size=1, max_size=2, unique=True).flatmap(conditions_over), READS, READS)
def test_what_is_found_fails_in_some_world(condition: str, then: str, otherwise: str) -> None:
    text = f"{{% if {condition} %}}{then}{{% else %}}{otherwise}{{% endif %}}"
    if unguarded(text):
        assert fails_somewhere(text)
