"""What map_reduce_docs.yaml and research_agent.yaml do without a model: read a folder of documents, and search it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

HERE = Path(__file__).parent
SNIPPET = 160


def read_folder(folder: str) -> list[dict[str, str]]:
    """The Markdown files of *folder*, below this one, by name."""
    root = (HERE / folder).resolve()
    if not root.is_relative_to(HERE):
        raise ValueError(f"{folder} is not below {HERE}")
    return [{"name": path.name, "text": path.read_text(encoding="utf-8")} for path in sorted(root.glob("*.md"))]


def search(
    words: Annotated[str, Field(description="Words, any of which a document may hold")],
    limit: Annotated[int, Field(description="How many documents at the most", ge=1, le=10)] = 5,
) -> list[dict[str, Any]]:
    """Searches the company's reports. Returns their names and how each begins, the best first."""
    wanted = words.lower().split()
    found = []
    for each in read_folder("inputs/docs"):
        hits = sum(each["text"].lower().count(word) for word in wanted)
        if hits:
            found.append({"name": each["name"], "hits": hits, "begins": each["text"][:SNIPPET]})
    return sorted(found, key=lambda each: (-int(each["hits"]), str(each["name"])))[:limit]


def read_report(name: Annotated[str, Field(description="The name of a report, as `search` gives it")]) -> str:
    """Reads one of the company's reports, whole."""
    for each in read_folder("inputs/docs"):
        if each["name"] == name:
            return each["text"]
    raise ValueError(f"there is no report {name}")
