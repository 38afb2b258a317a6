"""Lints where they are most easily wrong: what is passed on rather than read, joins of some of the nodes, keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentdag.language.findings import to_text
from agentdag.language.secrets import starred, written_secrets
from agentdag.plan.compile import compile_text
from agentdag.providers import prices
from agentdag.providers.registry import provider_types

THREE = """\
inputs: {{flag: {{type: boolean, default: false}}}}
defaults: {{model: openai/gpt-5-mini}}
nodes:
  x: {{prompt: One., continue_on_failure: true}}
  y: {{prompt: Two., continue_on_failure: true}}
  z: {{prompt: "Three {{{{ inputs.flag }}}}."}}
  r:
    {needs}
    prompt: |
      Read.
      {text}
"""


def codes_of(text: str, tmp_path: Path, needs: str = "needs: [x, y, z]") -> list[str]:
    whole = THREE.format(text=text, needs=needs)
    found = compile_text(whole, tmp_path / "p.yaml", provider_types=provider_types(), lint=prices).findings
    return [finding.code for finding in found if finding.severity == "error" or finding.code == "AD601"]


@pytest.mark.parametrize(
    "text",
    [
        "{% macro show(t) %}{{ t | default('-') }}{% endmacro %}{{ show(nodes.x.output) }}",
        "{% for l, t in [('X', nodes.x.output)] if t is defined %}{{ t }}{% endfor %}",
        "{{ needs.values() | map(attribute='output') | select('defined') | join }}",
        "{{ (nodes.x.output if nodes.y.ok else nodes.x.output) | default('-') }}",
        "{% filter replace('a', nodes.x.output | default('b')) %}a{% endfilter %}",
        "{% if nodes.x.ok or nodes.y.ok %}{% if nodes.x.ok %}{{ nodes.x.output }}{% else %}{{ nodes.y.output }}{% endif %}{% endif %}",
        "{% if 'succeeded' == nodes.x.status %}{{ nodes.x.output }}{% endif %}",
        "{% if nodes.x.status in ['succeeded'] %}{{ nodes.x.output }}{% endif %}",
        "{% if nodes.x.ok | default(false) %}{{ nodes.x.output }}{% endif %}",
        "{% if missing | length < 1 %}{{ nodes.x.output }}{% endif %}",
        "{% for name, node in needs.items() if name == 'z' %}{{ node.output }}{% endfor %}",
        "{% set a, b = nodes.x.output, 1 %}{{ a | default('-') }}",
    ],
)
def test_what_fails_in_no_run_is_no_alarm(text: str, tmp_path: Path) -> None:
    assert codes_of(text, tmp_path) == []


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("{{ nodes.x.output }}", "needs: [x, y, z]"),
        ("{% if inputs.flag %}{{ nodes.x.output }}{% endif %}", "needs: [x, y, z]"),
        ("{% if nodes.y.ok %}{{ nodes.x.output }}{% endif %}", "needs: [x, y, z]"),
        ("{{ nodes.z.output }}{% if not missing %}{{ nodes.x.output }}{% endif %}", "needs: [z]"),
        ("{% if 'x' not in missing %}{{ nodes.x.output }}{% endif %}{{ nodes.z.output }}", "needs: [z]"),
        ("{% for name, node in needs.items() %}{{ node.output }}{% endfor %}", "needs: [x, y, z]"),
    ],
)
def test_what_fails_in_some_run_is_told(text: str, needs: str, tmp_path: Path) -> None:
    assert "AD601" in codes_of(text, tmp_path, needs)


@pytest.mark.parametrize(
    "text",
    [
        "{% if inputs.flag %}{% set t = 'a' %}{{ t }}{% endif %}",
        "{% if inputs.flag %}{% set t = 'a' %}{% else %}{% set t = 'b' %}{% endif %}{{ t }}",
        "{% for k, v in inputs.items() %}{{ k }}{% endfor %}",
        "{{ inputs.get('flag', 'no') }}",
        "{{ nodes.x.get('output', '-') }}",
    ],
)
def test_what_renders_is_not_refused(text: str, tmp_path: Path) -> None:
    assert codes_of(text, tmp_path) == []


def test_what_jinja_cannot_compile_is_told_and_what_is_too_deep_is_left_alone(tmp_path: Path) -> None:
    text = "{% set t | replace('a', inputs.flag) %}banana{% endset %}{{ t }}"
    assert codes_of(text, tmp_path) == ["AD301"]
    assert "AD601" not in codes_of("{{ nodes.x.output" + ".a" * 5000 + " }}", tmp_path)


KEYS = [
    "api_key: sk-proj-8f3kPz0Qm2Vw7Yc1Tn5Rb9Ld",
    'api_key: "${K:-sk-proj-8f3kPz0Qm2Vw7Yc1Tn5Rb9Ld}"',
    "apikey: 8f3kPz0Qm2Vw7Yc1Tn5Rb9Ld",
    "headers: {Ocp-Apim-Subscription-Key: 8f3kPz0Qm2Vw7Yc1Tn5Rb9Ld}",
    "headers: {Authorization: Bearer 8f3kPz0Qm2Vw7Yc1Tn5Rb9Ld}",
    "base_url: https://user:8f3kPz0Qm2Vw7Yc1Tn5Rb9Ld@host/v1",
    "base_url: https://host/v1?api_key=8f3kPz0Qm2Vw7Yc1Tn5Rb9Ld",
    "x: gsk_8f3kPz0Qm2Vw7Yc1Tn5Rb9Ld",
]
NO_KEYS = [
    'api_key: "${TEAM_KEY}"',
    "api_key: lm-studio",
    "api_key: local-vllm-0-no-auth",
    "headers: {X-Api-Key-Version: 2024-10-21-preview}",
    "prompt: see https://example.com/sk-hynix-memory-prices-outlook",
    "prompt: with sk-learn-pipeline-of-estimators",
    "prompt: ask-8f3kPz0Qm2Vw7Yc1Tn5Rb9Ld",
    "max_tokens: 4000",
]


@pytest.mark.parametrize("text", KEYS)
def test_a_key_is_known_and_starred_out_wherever_it_stands(text: str) -> None:
    (key,) = written_secrets(text)
    assert "8f3kPz0Qm2Vw7Yc1Tn5Rb9Ld" in key
    assert "8f3kPz0Qm2" not in starred(f"before {text[:-4]}... and {text}", [key])


@pytest.mark.parametrize("text", NO_KEYS)
def test_what_is_no_key_is_left_alone(text: str) -> None:
    assert list(written_secrets(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "providers: {team: 8f3kPz0Qm2Vw7Yc1Tn5Rb9Ldsk}\nx: {api_key: 8f3kPz0Qm2Vw7Yc1Tn5Rb9Ldsk}\nnodes: {}",
        "providers: {team: sk-proj-8f3kPz0Qm2Vw7Yc1Tn5Rb9LdWw3Xx4Yy5}\nnodes: {}",
        "providers: {team: {apikey: 8f3kPz0Qm2Vw7Yc1Tn5Rb9Ld}}\nnodes: {}",
        'api_key: 8f3kPz0Qm2Vw7Yc1Tn5Rb9Ld "\nnodes: {}',
    ],
)
def test_a_key_in_a_broken_pipeline_is_not_shown(text: str, tmp_path: Path) -> None:
    found = compile_text(text, tmp_path / "p.yaml", provider_types=provider_types(), lint=prices).findings
    assert found
    assert "8f3kPz0Qm2" not in to_text(found)
