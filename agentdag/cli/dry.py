"""`run --dry-run`: order, prompts, tokens, cost and time of a run, told without making any call."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from agentdag.calls import Amount
from agentdag.events import BudgetLeft, Exit
from agentdag.language.scalars import seconds_text
from agentdag.limits.budget import Budget
from agentdag.plan.plan import Plan
from agentdag.plan.preview import LONGEST_ANSWER, Preview, Step
from agentdag.session import Options, foreseen
from agentdag.views.lines import writer
from agentdag.views.words import count, inert, inert_lines, left, money, names

MAX_LINES = 20
"""Lines of a prompt that are shown on a terminal; elsewhere all of them."""


def dry_run(plan: Plan, inputs: Mapping[str, Any], options: Options, *, as_json: bool) -> int:
    """Print what the run would do, on stdout; the exit code is 1 where a template fails already."""
    seen = foreseen(plan, inputs, options)
    text = _json(seen) if as_json else _text(seen, terminal=sys.stdout.isatty())
    writer(sys.stdout)(text + "\n")
    return Exit.FAILED if any(step.error for step in seen.steps) else Exit.SUCCEEDED


def _text(seen: Preview, *, terminal: bool) -> str:
    lines = [f"{inert(seen.plan.name)}: dry run of {count(len(seen.steps), 'node')}, no call is made"]
    for step in seen.steps:
        lines += ["", *_step_lines(step, terminal=terminal)]
    low, high = seen.low, seen.high
    whole_s = seen.plan.timeout_s
    time = f"time    about {seconds_text(seen.takes_s)} with {seen.plan.concurrency} at once"
    time += f", cut at {seconds_text(whole_s)}" if whole_s is not None and whole_s < seen.takes_s else ""
    assumed = sum(step.node.assumed for step in seen.steps)
    time += f"; {count(assumed, 'node')} without `expect` counted 1 s" if assumed else ""
    lines += ["", time]
    lines.append(f"tokens  about {low.input_tokens:,} in, {low.output_tokens:,} out")
    if seen.uncounted:
        lines.append(f"        with one item of {names(seen.uncounted)}: how many there are, only the run can tell")
    lines += _budget(seen)
    if not high.cost_usd and not seen.unpriced:
        return "\n".join([*lines, "cost    nothing"])
    told = f"cost    {money(low.cost_usd)} to {money(high.cost_usd)}"
    if seen.unpriced:
        told += f", without {', '.join(seen.unpriced)}: no price is known"
    lines.append(told)
    lines.append(
        "        low: what is expected; high: each retry, hedge, fallback, turn and pass spent, each answer as"
    )
    lines.append(
        f"        long as max_tokens allows, or {LONGEST_ANSWER} times as long as expected where the file does not say"
    )
    return "\n".join(lines)


def _budget(seen: Preview) -> list[str]:
    """Whether what is expected, and the most that can come, stay within the budget."""
    terms = seen.plan.budget
    budget = None if terms is None else Budget(terms.tokens, terms.cost_usd)
    if budget is None or not (bounds := left(BudgetLeft(*budget.left()))):
        return []
    fits, always = (budget.holds(Amount.used(usage)) for usage in (seen.low, seen.high))
    verdict = "what is expected does not fit: the run ends early, with exit code 3"
    if fits:
        verdict = "always enough" if always else "enough for what is expected, not for the most that can come"
    return [f"budget  {bounds}: {verdict}"]


def _step_lines(step: Step, *, terminal: bool) -> Iterator[str]:
    node = step.node
    about = [f"starts at {seconds_text(step.start_s)}"]
    about.append(f"takes {seconds_text(node.expected_s)}{' (assumed)' if node.assumed else ''}")
    if node.model is not None:
        about.append(inert(str(node.model)))
        if step.error is None:
            about.append(f"about {count(step.low.input_tokens or 0, 'token')} in, {step.low.output_tokens:,} out")
            about.append(f"{money(step.low.cost_usd)} to {money(step.high.cost_usd)}")
    if step.items is not None:
        about.insert(0, count(step.items, "item"))
    elif node.foreach is not None:
        about.insert(0, "for each item: told of one")
    if node.repeat is not None:
        about.insert(0, f"up to {node.repeat.most} passes")
    if step.skipped:
        about = ["does not run: its `when` does not hold"]
    yield f"{step.name}: {', '.join(about)}"
    if step.skipped:
        return
    if step.error is not None:
        yield f"  would fail: {inert(step.error)}"
    if step.system is not None:
        yield from _quoted("system", step.system, terminal=terminal)
    if step.prompt is not None:
        title = f"prompt, when {', '.join(step.waits_for)} will have answered" if step.waits_for else "prompt"
        yield from _quoted(title, step.prompt, terminal=terminal)
    if node.model is None:
        given = json.dumps(step.arguments, ensure_ascii=False, indent=2) if step.arguments else ""
        waiting = f", when {', '.join(step.waits_for)} will have answered" if step.waits_for else ""
        title = f"{inert(node.work.title)}{waiting}"
        yield from _quoted(title, given, terminal=terminal)


def _quoted(title: str, text: str, *, terminal: bool) -> Iterator[str]:
    lines = inert_lines(text).splitlines()
    yield f"  {title}" + (":" if lines else "")
    shown = lines[:MAX_LINES] if terminal else lines
    yield from (f"    {line}".rstrip() for line in shown)
    if len(lines) > len(shown):
        yield f"    ... {count(len(lines) - len(shown), 'more line')}"


def _json(seen: Preview) -> str:
    steps = [_step_json(step) for step in seen.steps]
    whole = {
        "pipeline": seen.plan.name,
        "makespan_s": round(seen.takes_s, 6),
        "concurrency": seen.plan.concurrency,
        "low": seen.low.plain(),
        "high": seen.high.plain(),
        "unpriced": seen.unpriced,
        "nodes": steps,
    }
    return json.dumps(whole, indent=2)


def _step_json(step: Step) -> dict[str, Any]:
    node = step.node
    told: dict[str, Any] = {
        "id": step.name,
        "start_s": round(step.start_s, 6),
        "duration_s": round(node.expected_s, 6),
        "model": None if node.model is None else str(node.model),
        "waits_for": list(step.waits_for),
        "system": step.system,
        "prompt": step.prompt,
        "arguments": step.arguments,
        "error": step.error,
    }
    if step.items is not None:
        told["items"] = step.items
    if step.skipped:
        told["skipped"] = True
    if node.model is not None:
        told |= {"low": step.low.plain(), "high": step.high.plain()}
    return told
