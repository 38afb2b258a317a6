"""A node on its way into the plan, and its templates, read one by one with their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentdag.calls import Rehearsal
from agentdag.errors import Span
from agentdag.language.answers import item_lacks
from agentdag.language.check import Report
from agentdag.language.document import Source
from agentdag.language.findings import did_you_mean
from agentdag.language.rules import BarrierSpec
from agentdag.language.sandbox import MAPPING_METHODS
from agentdag.language.spec import NodeSpec
from agentdag.language.templates import MODEL_TEXT, NODE_NAMES, PASS_NAMES, Problem, Template, ValueTemplate
from agentdag.plan.plan import Plan
from agentdag.plan.work import AS_TEXT, Answer, Foreach, Repeat, Work

Path_ = tuple[str | int, ...]


@dataclass
class Draft:
    """A node on its way into the plan. `templates` are all its templates with their places."""

    id: str
    spec: NodeSpec
    works: list[Work | None] = field(default_factory=list)
    """What the node does, then what its fallbacks do; None where something is wrong."""
    barrier: BarrierSpec | None = None
    """Its own, or that of `defaults`."""
    templates: list[tuple[Path_, Template, Source | None]] = field(default_factory=list)
    edges: list[str] = field(default_factory=list)
    places: dict[str, Callable[[], Span]] = field(default_factory=dict)
    """Tells where each edge is written; asked only where a cycle has to be shown."""
    rehearsal: Rehearsal = field(default_factory=Rehearsal)
    simulated: bool | None = None
    answer: Answer = AS_TEXT
    body: Plan | None = None
    """The pipeline that it runs."""

    foreach: Foreach | None = None
    when: Template | None = None
    repeat: Repeat | None = None
    save: Template | None = None
    model_text: frozenset[str] = MODEL_TEXT
    """The names behind which stands what a model may have written."""

    @property
    def base_names(self) -> frozenset[str]:
        """What its templates see before it begins."""
        return PASS_NAMES if self.barrier is not None and self.barrier.progressive else NODE_NAMES

    @property
    def names(self) -> frozenset[str]:
        """What its templates see."""
        names = self.base_names
        if self.spec.foreach is not None:
            names |= {self.spec.foreach.as_, "index"}
        return names | {"previous"} if self.spec.repeat is not None else names

    def kinds(self, path: Sequence[str]) -> frozenset[str] | None:
        """The JSON types that what *path* into its output leads to may have; None where nobody can tell."""
        if self.spec.foreach is not None:
            return None if path else frozenset({"array"})
        if self.body is not None:
            return None if path else frozenset({"object"})
        return self.answer.kinds(path)

    def item_lacks(self, place: Sequence[str], path: Sequence[str]) -> tuple[str, str] | None:
        """As `lacks`, of the items of the list that *place* leads to in its output."""
        if self.spec.foreach is not None:
            return None if place else self.pass_lacks(path)
        schema = None if self.body is not None else self.answer.schema
        return None if schema is None else _with_hint(item_lacks(schema, place, path))

    def lacks(self, path: Sequence[str]) -> tuple[str, str] | None:
        """The first step of *path* into its output that there is not, and what is there; None where there may be."""
        if self.spec.foreach is not None:
            if path[0].isdigit() or hasattr([], path[0]):
                return None
            hint = f"it is a list, one for each item: write `nodes.{self.id}.output[0].{path[0]}`, or loop over it"
            return path[0], hint
        return self.pass_lacks(path)

    def pass_lacks(self, path: Sequence[str]) -> tuple[str, str] | None:
        """As `lacks`, of what comes of one item, or of one pass."""
        if self.body is None:
            return _with_hint(self.answer.lacks(path))
        known = self.body.output_names
        return _with_hint(None if path[0] in known or path[0] in MAPPING_METHODS else (path[0], known))


def _with_hint(wrong: tuple[str, list[str]] | None) -> tuple[str, str] | None:
    """The step that there is not, with what to read instead of what is there."""
    if wrong is None:
        return None
    step, known = wrong
    plain = "it is text; say what it is to be under `output:`"
    return step, did_you_mean(step, known) or (f"it has {', '.join(known)}" if known else plain)


@dataclass(frozen=True)
class Texts:
    """Reads the templates of drafts; what is wrong with one goes to the report."""

    report: Report

    def template(
        self,
        draft: Draft,
        text: str,
        path: Path_,
        source: Source | None = None,
        *,
        names: frozenset[str] | None = None,
    ) -> Template:
        """The template *text* of *draft*, which stands at *path*, or in the file *source*; *names* are what it sees,
        where that is not what others do."""
        template = Template(text, draft.names if names is None else names)
        self._tell(draft, template, path, source)
        return template

    def condition(self, draft: Draft, text: str, path: Path_, names: frozenset[str]) -> Template:
        """As `template`, of one that gives a value: a single expression over *names*."""
        template = self.template(draft, text, path, names=names)
        if not template.problems and not template.is_expression:
            hint = "write one `{{ ... }}` and nothing around it"
            self.report.at(path, "AD202", "this template gives text, and a value is due", hint)
        return template

    def values(self, draft: Draft, value: Any, path: Path_) -> ValueTemplate:
        """The plain *value* at *path*, in which any text may be a template."""
        found = ValueTemplate.of(value, draft.names)
        for leaf, template in found.leaves:
            self._tell(draft, template, (*path, *leaf), None)
        return found

    def _tell(self, draft: Draft, template: Template, path: Path_, source: Source | None) -> None:
        for problem in template.problems:
            self.report.in_template(path, self._meant(problem, draft), source)
        draft.templates.append((path, template, source))

    def _meant(self, problem: Problem, draft: Draft) -> Problem:
        """*problem* with the mend, where an unknown name is that of a node or an input, or is called otherwise here."""
        foreach = draft.spec.foreach
        if problem.code == "AD302" and problem.needle == "item" and foreach is not None:
            own = f"this node calls its item `{foreach.as_}`"
            once = "`when` and the list are read once for all items: filter the list"
            return replace(problem, hint=once if foreach.as_ == "item" else own)
        if problem.code == "AD302" and problem.message.endswith("is not defined"):
            for section, rest in (("nodes", ".output"), ("inputs", "")):
                declared = self.raw(section)
                if isinstance(declared, dict) and problem.needle in declared:
                    return replace(problem, hint=f"write `{section}.{problem.needle}{rest}`")
        return problem

    def raw(self, *path: str) -> Any:
        """What stands at *path* in the file; None where nothing does."""
        value: Any = self.report.document.value
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        return value

    def refuse_model_text(
        self, draft: Draft, template: Template, path: Path_, what: str, hint: str = "write it out, or read an input"
    ) -> bool:
        """Whether *template* reads what a model may have written, which must not become *what*; that is told."""
        for read in template.reads:
            if read.root in draft.model_text or ".".join((read.root, *read.path[:1])) in draft.model_text:
                message = f"{what} must not come from a node's answer: `{read.text}`"
                problem = Problem("AD212", message, hint, read.line, read.text)
                self.report.in_template(path, problem)
                return True
        if template.dynamic is not None or template.loops is not None:
            line = template.dynamic or template.loops or 1
            problem = Problem("AD212", f"{what} must not come from a node's answer", "write it out", line, "needs")
            self.report.in_template(path, problem)
            return True
        return False
