"""A hostile template neither escapes nor runs forever nor fills the memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from agentdag.language.templates import NODE_NAMES, Template, TemplateError

ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ inputs.__class__.__mro__ }}",
    "{{ inputs | attr('__class__') }}",
    "{{ ''['__class__'] }}",
    "{{ '{0.__class__}'.format(inputs) }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "{{ range.__globals__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ [].append(1) }}",
    "{{ inputs.update({}) }}",
    "{{ inputs | map('attr', '__class__') | first }}",
    "{{ namespace.__init__ }}",
]
BOMBS = [
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ [0] * 10**9 }}",
    "{{ ('a' * 10**6) * 10**6 }}",
    "{{ 'a' | center(10**9) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'.zfill(width=10**9) }}",
    "{{ ('x\\n' * 10000) | indent(10000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ (9 ** 3000) ** 3000 }}",
    "{{ ('a' * 10**5) | replace('a', 'b' * 10**5) }}",
    "{{ ('a' * 10**5).replace('a', 'b' * 10**5) }}",
    "{{ ('a' * 10**6).translate({97: 'x' * 10**6}) }}",
    "{{ range(10**5) | map('string') | join('x' * 10**4) }}",
    "{{ ' '.join(['x' * 10**6] * 10**3) }}",
    "{{ (('x' * 1000) | list) | join('y' * 10**5) }}",
    "{{ 5.to_bytes(10**10, 'big') }}",
    "{{ range(10**10) | list }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ range(99999) | sum }}{% endfor %}",
    "{% for i in range(99999) %}{{ 'x' * 10**5 }}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | string }}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for i in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
    "{% filter center(10**9) %}x{% endfilter %}",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_no_escape_from_the_sandbox(text: str) -> None:
    template = Template(text, NODE_NAMES)
    with pytest.raises(TemplateError):
        template.render({"inputs": {"a": 1}})


@pytest.mark.parametrize("text", BOMBS)
def test_a_bomb_ends_soon_and_small(text: str) -> None:
    template = Template(text, NODE_NAMES)
    if template.problems:
        return  # refused before it could run
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(TemplateError):
        template.render({"inputs": {}})
    spent, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spent < 20, "seconds of CPU under tracemalloc; without bounds these never end"
    assert peak < 200 * 2**20


def test_ordinary_work_is_within_the_bounds() -> None:
    rows = [{"name": f"n{i}", "total": i} for i in range(5000)]
    text = "{% for r in inputs.rows %}{{ loop.index }}/{{ loop.length }} {{ r.name | upper | center(9) }}\n{% endfor %}{{ inputs.rows | sum(attribute='total') }}"
    assert Template(text, NODE_NAMES).render({"inputs": {"rows": rows}}).endswith("12497500")


def test_each_rendering_has_an_allowance_of_its_own() -> None:
    template = Template("{% for i in range(90000) %}{% endfor %}done", NODE_NAMES)
    for _ in range(20):
        assert template.render({}) == "done"
