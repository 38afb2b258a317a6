"""Broken pipelines with what is said of each, and good ones of which nothing is said.

`AGENTDAG_SNAPSHOTS=write make test` writes the texts anew; read the difference before you commit it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from agentdag.language.codes import codes
from agentdag.language.findings import to_text
from agentdag.plan.compile import compile_text
from agentdag.providers import prices
from agentdag.providers.registry import provider_types

CORPUS = Path(__file__).parent.parent / "corpus"
BROKEN = sorted((CORPUS / "broken").glob("*.yaml"))
GOOD = [*sorted((CORPUS / "good").glob("*.yaml")), *sorted((CORPUS.parent.parent / "pipelines").glob("*.yaml"))]
ADVICE_ALONE = {"AD508", "AD509"}


def said_of(file: Path) -> str:
    """Everything that is said of *file*, as `validate` prints it in its folder."""
    here = Path.cwd()
    os.chdir(file.parent)
    try:
        text = file.read_text(encoding="utf-8")
        found = compile_text(text, Path(file.name), provider_types=provider_types(), lint=prices).findings
    finally:
        os.chdir(here)
    return to_text(found).replace(str(file.parent), "FOLDER") + "\n"


@pytest.mark.parametrize("file", BROKEN, ids=[file.stem for file in BROKEN])
def test_what_is_said_of_a_broken_pipeline(file: Path) -> None:
    said = said_of(file)
    snapshot = file.with_suffix(".txt")
    if os.environ.get("AGENTDAG_SNAPSHOTS") == "write":
        snapshot.write_text(said, encoding="utf-8")
    assert said == snapshot.read_text(encoding="utf-8")
    assert said.startswith((f"{file.name}:", "ad202-0.yaml:"))  # or what is wrong in a pipeline that it runs


@pytest.mark.parametrize("file", GOOD, ids=[file.stem for file in GOOD])
def test_nothing_is_said_of_a_good_pipeline(file: Path) -> None:
    assert said_of(file) == "\n"


def test_the_corpus_is_large_and_has_every_code() -> None:
    said = "".join(file.with_suffix(".txt").read_text(encoding="utf-8") for file in BROKEN)
    found = set(re.findall(r"(?:error|warning)\[(AD\d+)\]", said))
    assert found | ADVICE_ALONE | {"AD608"} == set(codes())
    assert len(BROKEN) >= 150
    assert len(GOOD) >= 30
