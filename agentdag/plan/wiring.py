"""How nodes depend on each other: `needs` and everything that their templates read.

A node's edges are both together; what cannot be known before the run is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from agentdag.errors import Span
from agentdag.language.check import Report
from agentdag.language.document import Source
from agentdag.language.findings import did_you_mean
from agentdag.language.spec import PipelineSpec
from agentdag.language.templates import Problem, Read, Template, ValueTemplate, read_problem
from agentdag.plan.drafts import Draft

Path_ = tuple[str | int, ...]
_PATH = re.compile(r"\s*\{\{-?\s*(\w+(?:\.\w+)+)\s*-?\}\}\s*")
_TOLD = {
    "string": "text",
    "integer": "a number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping",
}


@dataclass
class Wiring:
    """The edges of one pipeline. *declared* are all ids in the file, those of broken nodes among them."""

    spec: PipelineSpec
    report: Report
    declared: Mapping[str, Any]
    drafts: Mapping[str, Draft]

    def connect(self) -> None:
        """Fill in the edges of every draft."""
        for draft in self.drafts.values():
            self._listed(draft)
            for path, template, source in draft.templates:
                self._read(draft, path, template, source)
            if draft.foreach is not None:
                self._check_list(draft, draft.foreach.items.value)

    def check_outputs(self, outputs: Mapping[str, ValueTemplate]) -> None:
        for name, value in outputs.items():
            for leaf, template in value.leaves:
                path = ("outputs", name, *leaf)
                if template.dynamic is not None:
                    self._refuse_dynamic(path, template.dynamic, None, "name each node: `nodes.<id>`")
                for read in template.reads:
                    if problem := self._problem(read, None):
                        self.report.in_template(path, problem)

    def _listed(self, draft: Draft) -> None:
        for index, name in enumerate(draft.spec.needs or ()):
            path = ("nodes", draft.id, "needs", index)
            if name == draft.id:
                self.report.at(path, "AD402", f"`{name}` needs itself", "remove it")
            elif name not in self.declared:
                self.report.at(path, "AD401", f"there is no node `{name}`", did_you_mean(name, self.declared))
            elif name in draft.places:
                self.report.at(path, "AD104", f"`{name}` is listed twice", "remove one")
            else:
                self._edge(draft, name, partial(self.report.document.span, path))

    def _read(self, draft: Draft, path: Path_, template: Template, source: Source | None) -> None:
        listed = draft.spec.needs is not None
        if template.dynamic is not None and not listed:
            hint = "list the nodes under `needs:` and loop over `needs`"
            self._refuse_dynamic(path, template.dynamic, source, hint)
        if template.loops is not None and not listed and not self._reads_nodes(draft):
            problem = Problem(
                "AD306", "`needs` is empty here", "list the nodes under `needs:`", template.loops, "needs"
            )
            self.report.in_template(path, problem, source)
        seen: set[Problem] = set()
        for read in template.reads:
            if (wrong := self._problem(read, draft)) is not None:
                if wrong not in seen:
                    seen.add(wrong)
                    self.report.in_template(path, wrong, source)
            elif read.root == "nodes" and read.path[0] not in draft.places:
                place = Problem("", "", None, read.line, f"nodes.{read.path[0]}")
                self._edge(draft, read.path[0], partial(self.report.template_span, path, place, source))

    @staticmethod
    def _reads_nodes(draft: Draft) -> bool:
        return any(read.root == "nodes" for _, template, _ in draft.templates for read in template.reads)

    def _problem(self, read: Read, draft: Draft | None) -> Problem | None:
        """What is wrong with *read* in the templates of *draft*, or of the outputs."""
        if read.root in {"nodes", "needs"} and read.path:
            name, needle = read.path[0], f"{read.root}.{read.path[0]}"
            if draft is not None and name == draft.id:
                return Problem("AD402", f"`{name}` reads itself", "read another node", read.line, needle)
            if name not in self.declared:
                hint = did_you_mean(name, self.declared)
                return Problem("AD303", f"there is no node `{name}`", hint, read.line, needle)
            if read.root == "needs" and draft is not None and not self._sees(draft, name):
                hint = f"write `nodes.{name}`, or list `{name}` under `needs:`"
                return Problem("AD303", f"`{name}` is not among the needs of `{draft.id}`", hint, read.line, needle)
        return read_problem(read, self._inputs()) or self._answer_problem(read, draft)

    def _answer_problem(self, read: Read, reader: Draft | None) -> Problem | None:
        """What *read*, of the node *reader*, wants of an answer that has no such thing."""
        if read.root == "output" and read.path and reader is not None:
            own = reader.pass_lacks(read.path)
            message = None if own is None else f"the output of `{reader.id}` has no `{own[0]}`"
            return None if own is None or message is None else Problem("AD307", message, own[1], read.line, read.text)
        if reader is not None and reader.foreach is not None and read.root == reader.foreach.name and read.path:
            return self._item_problem(read, reader.foreach.items.value)
        if read.root not in {"nodes", "needs"} or len(read.path) < 3 or read.path[1] != "output":
            return None
        name, _, *path = read.path
        draft = self.drafts.get(name)
        wrong = None if draft is None else draft.lacks(path)
        if wrong is None:
            return None
        step, hint = wrong
        return Problem("AD307", f"the output of `{name}` has no `{step}`", hint, read.line, read.text)

    def _item_problem(self, read: Read, items: Any) -> Problem | None:
        """What *read* wants of an item that has no such thing."""
        found = _PATH.fullmatch(items.text) if isinstance(items, Template) else None
        root, name, *path = ("", "") if found is None else found[1].split(".")
        if root != "nodes" or name not in self.drafts or path[:1] != ["output"]:
            return None
        wrong = self.drafts[name].item_lacks(path[1:], read.path)
        if wrong is None:
            return None
        return Problem("AD307", f"an item of `{name}` has no `{wrong[0]}`", wrong[1], read.line, read.text)

    def _check_list(self, draft: Draft, items: Any) -> None:
        """Refuse what is certainly no list as the items of *draft*."""
        found = _PATH.fullmatch(items.text) if isinstance(items, Template) else None
        if found is None:
            return
        root, name, *path = found[1].split(".")
        kinds: frozenset[str] | None = None
        if root == "inputs":
            kind = self.spec.inputs[name].type if name in self.spec.inputs and not path else None
            kinds = None if kind is None else frozenset({"string" if kind == "file" else kind})
        elif root == "nodes" and name in self.drafts and path[:1] == ["output"]:
            kinds = self.drafts[name].kinds(path[1:])
        if kinds is None or "array" in kinds:
            return
        told = " or ".join(sorted(_TOLD.get(kind, kind) for kind in kinds))
        hint = (
            f"write {{{{ {found[1]}.splitlines() }}}} for its lines" if "string" in kinds else "loop over a list in it"
        )
        if root == "nodes":
            hint += f", or say under the `output:` of `{name}` that it is a list"
        path_ = ("nodes", draft.id, "foreach")
        raw = self.report.document.value["nodes"][draft.id]["foreach"]
        place = (*path_, "items") if isinstance(raw, Mapping) else path_
        self.report.in_template(place, Problem("AD307", f"this is {told}, and a list is due", hint, 1, found[1]))

    @staticmethod
    def _sees(draft: Draft, name: str) -> bool:
        if draft.spec.needs is not None:
            return name in draft.spec.needs
        reads = (read for _, template, _ in draft.templates for read in template.reads)
        return any(read.root == "nodes" and read.path[:1] == (name,) for read in reads)

    def _inputs(self) -> Mapping[str, Any]:
        """The inputs in the file, those of broken ones among them."""
        raw = self.report.document.value.get("inputs")
        return raw if isinstance(raw, dict) else {}

    def _refuse_dynamic(self, path: Path_, line: int, source: Source | None, hint: str) -> None:
        message = "which nodes this reads cannot be known before the run"
        self.report.in_template(path, Problem("AD306", message, hint, line, "nodes"), source)

    def _edge(self, draft: Draft, name: str, place: Callable[[], Span]) -> None:
        draft.edges.append(name)
        draft.places[name] = place
