"""A hostile template neither escapes nor runs forever nor fills the memory."""

from __future__ import annotations

import resource

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
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x is eq(n.y) }}",
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ [n.x, n.y] | sort }}",
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ [n.x].index(n.y) }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ '%s' % [n.x] }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ '{}'.format(n.x) }}",
    "{% filter center(10**9) %}x{% endfilter %}",
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n }}",
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ {1: n.x}.values() }}",
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ 'x' ~ {1: n.x}.values() }}",
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ 'a' | replace('a', n.x) }}",
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ nodes[n.x] }}",
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ {(n.x, n.x): 1} }}",
    "{{ [1] | tojson(indent=10**9) }}",
    "{{ 1 | round(20000000, 'ceil') }}",
    "{{ 'a'.encode() * 10**10 }}",
    "{{ ('x' * 10**6).join(range(100000) | map('string')) }}",
    "{{ range(90000) | join('x' * 10**6) }}",
    "{{ ('\\t' * 10**6).expandtabs(10**6) }}",
    "{{ ('x\\r' * 1000) | indent(10**7) }}",
    "{{ ('%(a)9999d' * 1500000) % {'a': 1} }}",
    "{{ ('{0:9999}' * 2000000).format(1) }}",
    "{{ ('{0}' * 3000).format('x' * 10**6) }}",
    "{{ ('a' * 2000000) | wordwrap(1) }}",
    "{{ ([[1]] * 200000) | sum(start=[]) }}",
    "{{ ('a' * 4000000).rfind('ab' + 'a' * 2000000) }}",
    "{% set L = range(100000) | list %}{% for i in range(100000) %}{% if 'q' in L %}{% endif %}{% endfor %}",
    "{% for i in range(100000) %}{% if 'ab' in inputs.long %}{% endif %}{% endfor %}",
    "{% for i in range(100000) %}{% if inputs.long is lower %}{% endif %}{% endfor %}",
    "{% for i in range(4) %}{% for j in range(100000) %}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}{% endfor %}",
    "{% set s = 'a' * 4000000 %}{% set n = namespace(l=[]) %}{% for i in range(1000) %}{% set n.l = [n.l, s[i:]] %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(30) }}",
    "{{ (['a' * 4000000] * 1000) | sort }}",
    "{% set n = namespace(l=[]) %}{% for i in range(600) %}{% set n.l = n.l + ['y' * 4000000] %}{% endfor %}",
    "{{ ('y' * 4000000) | list }}",
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
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(TemplateError):
        template.render({"inputs": {"long": "a" * 4_000_000}, "nodes": {}})
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < 15, "seconds of CPU; without bounds these never end"
    assert after.ru_maxrss - before.ru_maxrss < 300 * 1024, "KiB"


def test_ordinary_work_is_within_the_bounds() -> None:
    rows = [{"name": f"n{i}", "total": i} for i in range(5000)]
    text = "{% for r in inputs.rows %}{{ loop.index }}/{{ loop.length }} {{ r.name | upper | center(9) }}\n{% endfor %}{{ inputs.rows | sum(attribute='total') }}"
    assert Template(text, NODE_NAMES).render({"inputs": {"rows": rows}}).endswith("12497500")


def test_each_rendering_has_an_allowance_of_its_own() -> None:
    template = Template("{% for i in range(90000) %}{% endfor %}done", NODE_NAMES)
    for _ in range(20):
        assert template.render({}) == "done"
