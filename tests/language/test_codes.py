"""Every code is explained with a wrong pipeline that has it and a right one that has nothing."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from agentdag.language.codes import Code, codes
from agentdag.plan.advice import advise
from agentdag.plan.compile import Compiled, compile_text
from agentdag.providers import prices
from agentdag.providers.registry import provider_types

ADVICE_ALONE = {"AD508", "AD509"}
"""Told by `graph` only: there is nothing wrong with the file."""


def compiled(text: str, folder: Path) -> Compiled:
    (folder / "prompts").mkdir(exist_ok=True)
    (folder / "prompts" / "brief.md").write_text("Say hello.")
    (folder / "long.txt").write_text("word " * 50_000)
    (folder / "p.yaml").write_text(text)
    (folder / "chapter.txt").write_text("word")
    return compile_text(text, folder / "p.yaml", provider_types=provider_types(), lint=prices)


@pytest.mark.parametrize("code", codes().values(), ids=lambda code: code.code)
def test_the_wrong_example_has_this_finding_and_the_right_one_has_none(code: Code, tmp_path: Path) -> None:
    wrong, right = compiled(code.wrong, tmp_path), compiled(code.right, tmp_path)
    assert right.findings == ()
    if code.code not in ADVICE_ALONE:
        assert [(finding.code, finding.severity) for finding in wrong.findings] == [(code.code, code.severity)]
        return
    assert wrong.plan is not None
    assert right.plan is not None
    best = max((advice.saves_s for advice in advise(right.plan)), default=0.0)
    (told,) = [advice for advice in advise(wrong.plan) if advice.code == code.code][:1]
    assert told.saves_s > best


def test_no_section_of_the_page_is_lost() -> None:
    page = files("agentdag.language").joinpath("codes.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (AD\d+)", page, re.MULTILINE) == list(codes()) == sorted(codes())


def test_every_code_that_the_source_names_is_explained() -> None:
    source = Path(str(files("agentdag")))
    named = {code for file in source.rglob("*.py") for code in re.findall(r'"(AD\d{3})"', file.read_text("utf-8"))}
    assert named - {"AD500"} == set(codes())
