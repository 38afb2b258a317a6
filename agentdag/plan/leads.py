"""The beginning that the prompts of several nodes share, as far as the file shows it: what a provider can cache.

Prompts begin alike where their templates do, up to the first that only one of them has. Tags are not looked into.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from os.path import commonprefix

from agentdag.language.templates import NODE_NAMES, Template
from agentdag.plan.plan import Choice, PlanNode
from agentdag.plan.work import PromptWork


def with_leads(nodes: Sequence[PlanNode]) -> tuple[PlanNode, ...]:
    """*nodes*, each prompt with the beginning that it shares with another one to the same model."""
    leads = _leads([choice.work for node in nodes for choice in node.choices if isinstance(choice.work, PromptWork)])
    templates = {text: Template(text, NODE_NAMES) for text in set(leads.values()) if text}

    def led(choice: Choice) -> Choice:
        work = choice.work
        if not isinstance(work, PromptWork):
            return choice
        lead = templates.get(leads[_key(work)])
        return choice if lead is None or lead.problems else replace(choice, work=replace(work, lead=lead))

    return tuple(replace(node, choices=tuple(led(choice) for choice in node.choices)) for node in nodes)


def with_item_leads(nodes: Sequence[PlanNode]) -> tuple[PlanNode, ...]:
    """*nodes*, the prompts of those whose `foreach` warms the cache each with all that comes before the item."""
    return tuple(_led_by_item(node) if node.foreach is not None and node.foreach.cache_warm else node for node in nodes)


def _led_by_item(node: PlanNode) -> PlanNode:
    assert node.foreach is not None
    own = {node.foreach.name, "index", "previous"}

    def led(choice: Choice) -> Choice:
        work = choice.work
        if not isinstance(work, PromptWork):
            return choice
        lead = Template(_before_item(work.prompt.text, own), NODE_NAMES)
        return choice if lead.problems else replace(choice, work=replace(work, lead=lead))

    return replace(node, choices=tuple(map(led, node.choices)))


def _before_item(text: str, own: Collection[str]) -> str:
    """The beginning of a prompt before the first expression that reads what is the instance's *own*."""
    text = _whole_expressions(text)
    start = 0
    while (opened := text.find("{{", start)) >= 0:
        closed = text.find("}}", opened)
        if set(_WORD.findall(text[opened:closed])) & set(own):
            return text[:opened]
        start = closed + len("}}")
    return text


def _whole_expressions(text: str) -> str:
    """*text* before any tag or comment."""
    for mark in ("{%", "{#"):
        text = text.partition(mark)[0]
    return text[: text.rfind("{{")] if text.rfind("{{") > text.rfind("}}") else text


_WORD = re.compile(r"[A-Za-z_]\w*")
_Key = tuple[str, str, str]


def _key(work: PromptWork) -> _Key:
    """Who is asked, and the whole of what is asked, as it is written."""
    return str(work.model), "" if work.system is None else work.system.text, work.prompt.text


def _leads(works: Sequence[PromptWork]) -> Mapping[_Key, str]:
    """The shared beginning of each; in the order of the texts, what is most alike stands side by side."""
    counts: dict[_Key, int] = {}
    for work in works:
        counts[_key(work)] = counts.get(_key(work), 0) + 1
    keys = sorted(counts)
    leads = {}
    for number, key in enumerate(keys):
        beside = [other for other in keys[max(0, number - 1) : number + 2] if other != key and other[:2] == key[:2]]
        shared = [key[2]] if counts[key] > 1 else []
        shared += [commonprefix([key[2], other[2]]) for other in beside]  # noqa: RUF071 - of texts, not of paths
        shared.append(key[2].partition("{")[0])  # the same in every row of a batch
        leads[key] = max((_whole(text) for text in shared), key=len)
    return leads


def _whole(text: str) -> str:
    """*text* before any tag or comment, up to its last whole line, or expression: so that three prompts of which two
    share a few words more share one beginning all the same."""
    for mark in ("{%", "{#"):
        text = text.partition(mark)[0]
    opened, closed = text.rfind("{{"), text.rfind("}}")
    if opened > closed:
        return text[:opened]
    line, end = text.rfind("\n") + 1, closed + len("}}") if closed >= 0 else 0
    whole = max(line, end)
    return text[:whole] if 2 * whole >= len(text) else text[: text.rfind(" ") + 1]  # a line that is most of the text
