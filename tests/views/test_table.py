"""The board as a table: pure, so every size and state is one call away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from agentdag.calls import NO_USAGE, Usage
from agentdag.errors import ErrorKind, Failure
from agentdag.events import (
    BarrierOpened,
    NodeFallback,
    NodeHedged,
    NodeProgress,
    NodeRetrying,
    NodeSettled,
    NodeStarted,
    PassFinished,
    Reason,
    RunFinished,
    RunStarted,
    RunStatus,
    Status,
)
from agentdag.views.board import Board
from agentdag.views.lines import settled_text
from agentdag.views.summary import summary
from agentdag.views.table import render
from agentdag.views.words import failure, inert, opened, seconds

FAILURE = Failure(ErrorKind.RATE_LIMIT, "slow\x1b[31m down", "openai", 429, "req-9", "no", 2.0)


def settled(node: str, status: Status = Status.SUCCEEDED, **changes: object) -> NodeSettled:
    whole = {
        "run": "r", "at": 3.0, "node": node, "status": status, "latency_s": 2.5, "attempts": 1, "model": "openai/m",
        "usage": Usage(1000, 20, 0), "output": "x", "error": None, "reason": None, "waits": {},
    }  # fmt: skip
    return NodeSettled(**{**whole, **changes})  # type: ignore[arg-type]


def board(nodes: int = 3) -> Board:
    made = Board.of((f"n{i}", i // 2, "openai/gpt-5-mini") for i in range(nodes))
    made(RunStarted("r", 0.0, "name", nodes, 8, "eager", "t", 10.0, 20.0))
    return made


def text(shown: Board, **size: int) -> str:
    return "\n".join(line.plain for line in render(shown, now=5.0, **{"width": 100, "height": 30, **size}))


def test_each_state_shows_as_it_is() -> None:
    shown = board(5)
    shown(NodeStarted("r", 1.0, "n0", 0, 1, "openai/gpt-5-mini"))
    shown(NodeProgress("r", 2.0, "n0", 33, 0.4))
    shown(NodeStarted("r", 1.0, "n1", 0, 2, "openai/gpt-5-mini"))
    shown(NodeRetrying("r", 4.0, "n1", 2, 1.0, FAILURE))
    shown(settled("n2", ttft_s=0.7))
    shown(settled("n3", Status.FAILED, error=FAILURE, usage=NO_USAGE))
    lines = text(shown).splitlines()
    assert lines[2].split() == ["▸", "0", "n0", "running", "openai/gpt-5-mini", "4.0", "s", "0.4", "s", "~33"]
    retrying = "↻ 0 n1 retrying openai/gpt-5-mini 2 1.0 s again in 1.0 s: rate…"
    assert lines[3].split() == retrying.split()
    assert lines[4].split() == ["✓", "1", "n2", "succeeded", "openai/m", "2.5", "s", "0.7", "s", "1,000", "20"]
    assert lines[5].split() == ["✗", "1", "n3", "failed", "openai/m", "2.5", "s", "rate_limit:", "slow<U+0…"]
    assert lines[6].split() == ["·", "2", "n4", "pending", "openai/gpt-5-mini"]
    assert lines[7] == "5.0 s; critical path 10.0 s, in sequence 20.0 s"
    assert lines[8] == "1 running, 1 pending, 1 retrying, 1 failed; 1,000 tokens in, 53 out, cost unknown"
    assert lines[9] == "n1: again in 1.0 s: rate_limit"


def test_the_footer_compares_with_what_is_expected_under_the_cap_and_has_room_for_a_word() -> None:
    shown = Board.of([("n0", 0, None)], expected_s=17.0)
    shown(RunStarted("r", 0.0, "name", 1, 8, "eager", "t", 10.0, 20.0))
    shown.note = "interrupted"
    assert text(shown).splitlines()[3:] == [
        "5.0 s of 17.0 s expected; critical path 10.0 s, in sequence 20.0 s",
        "0 running, 1 pending; 0 tokens in, 0 out",
        "interrupted",
    ]


def test_what_one_cause_has_stopped_is_told_together() -> None:
    nodes = [settled(f"n{i}", Status.SKIPPED, reason="a failed") for i in range(7)]
    finished = RunFinished("r", 1.0, RunStatus.FAILED, 1.0, 0.1, 0.0, 0.0, NO_USAGE, {}, {}, {Status.SKIPPED: 7}, 1)
    assert summary(finished, nodes)[0].plain == "n0, n1, n2, n3, n4 and 2 more skipped: a failed"


def test_a_new_attempt_forgets_what_the_last_one_streamed() -> None:
    shown = board(1)
    shown(NodeStarted("r", 1.0, "n0", 0, 1, "openai/m"))
    shown(NodeProgress("r", 2.0, "n0", 33, 0.4))
    shown(NodeStarted("r", 3.0, "n0", 0, 2, "openai/m"))
    assert "33" not in text(shown)
    assert shown.streaming_tokens() == 0


@given(st.integers(1, 80), st.integers(5, 50), st.integers(20, 200), st.data())
def test_it_always_fits_and_counts_every_node(nodes: int, height: int, width: int, data: st.DataObject) -> None:
    shown = board(nodes)
    for i in range(nodes):
        state = data.draw(st.sampled_from(["pending", "running", "settled", "failed"]))
        if state != "pending":
            shown(NodeStarted("r", 1.0, f"n{i}", 0, 1, "openai/gpt-5-mini"))
        if state in {"settled", "failed"}:
            shown(settled(f"n{i}", Status.SUCCEEDED if state == "settled" else Status.FAILED))
    lines = render(shown, now=5.0, width=width, height=height)
    assert len(lines) <= height
    assert all(cell_len(line.plain) <= width for line in lines)
    assert sum(shown.counts.values()) == nodes
    rows = sum(line.plain[:1] in "▸✓✗·" for line in lines)
    folded = next((int(line.plain.split()[1]) for line in lines if line.plain.startswith("  and ")), 0)
    if width >= 60:
        assert rows + folded == nodes


def test_wide_and_hostile_names_keep_their_columns() -> None:
    shown = Board.of([("漢字" * 20, 0, "openai/[bold]x"), ("e\x1b[2J", 0, None)])
    shown(RunStarted("r", 0.0, "na\nme", 2, 8, "eager", "t", 10.0, 20.0))
    lines = render(shown, now=0.0, width=80, height=20)
    assert all(cell_len(line.plain) <= 80 for line in lines)
    assert "\x1b" not in "".join(line.plain for line in lines)
    assert "[bold]x" in "".join(line.plain for line in lines)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 ms"),
        (0.0994, "99 ms"),
        (0.1, "0.1 s"),
        (59.96, "60.0 s"),
        (119.9, "119.9 s"),
        (125, "2 min 05 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_seconds_read_well(value: float, expected: str) -> None:
    assert seconds(value) == expected


def test_a_failure_tells_its_whole_story_and_nothing_acts() -> None:
    told = failure(FAILURE, 3)
    assert (
        told
        == "rate_limit: slow<U+001B>[31m down (openai, status 429, request req-9, not billed, asked to wait 2.0 s, 3 attempts)"
    )
    assert inert("a\tb\nc\u202ed") == "a b c<U+202E>d"
    assert settled_text(settled("n", Status.SKIPPED, reason="x failed")) == "skipped: x failed"


def test_the_summary_lists_failures_before_what_they_stopped() -> None:
    nodes = [settled("c", Status.SKIPPED, reason="a failed"), settled("a", Status.FAILED, error=FAILURE), settled("b")]
    finished = RunFinished(
        "r", 9.0, RunStatus.FAILED, 9.0, 0.1, 18.0, 8.0, Usage(1, 2, 3, estimated=True), {}, {"o": "no"}, {Status.FAILED: 1}, 1
    )  # fmt: skip
    lines = [line.plain for line in summary(finished, nodes)]
    assert lines[0].startswith("a failed after 2.5 s: rate_limit")
    assert lines[1] == "c skipped: a failed"
    assert lines[2] == "output o is null: no"
    assert lines[4] == "time    9.0 s; critical path 8.0 s; one after another 18.0 s, 2.0 times as long"
    assert lines[5] == "tokens  about 1 in, 2 out"
    assert lines[6] == "cost    unknown"
    assert lines[7] == "cache   3 of the input tokens from the provider's cache"


def joins(shown: Board) -> list[str]:
    """The events of a join, one after another, and what the board says of each."""
    told = []
    for event in (
        BarrierOpened("r", 1.0, "n4", Reason.QUORUM, ("n0", "n1"), ("n2", "n3"), ("n3",)),
        NodeHedged("r", 2.0, "n4", 1, 10.0),
        NodeFallback("r", 3.0, "n4", 1, "openai/gpt-5", FAILURE),
        PassFinished("r", 4.0, "n4", 2, 1.0, None, FAILURE),
    ):
        shown(event)
        told.append(shown.latest)
    return told


def test_what_did_not_go_the_usual_way_is_told_below_the_table() -> None:
    shown = board(5)
    assert joins(shown) == [
        "n4: goes on with 2 of 4 (quorum); without n2; too late: n3",
        "n4: hedged: no answer after 10.0 s: the same call again beside it",
        f"n4: fallback: openai/gpt-5 takes over: {failure(FAILURE)}",
        f"n4: pass 2 failed, what was there before stands: {failure(FAILURE)}",
    ]
    assert shown.rows["n4"].status == "waiting"
    lines = text(shown).splitlines()
    assert lines[6].split()[:4] == ["◦", "2", "n4", "waiting"]
    assert lines[-1].startswith("n4: pass 2 failed")


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (BarrierOpened("r", 1.0, "j", Reason.ALL, ("a", "b"), ()), None),
        (BarrierOpened("r", 1.0, "j", Reason.ALL, ("a",), ("b",)), "goes on without b"),
        (
            BarrierOpened("r", 1.0, "j", Reason.TIMEOUT, ("a",), ("b",), ("b",)),
            "goes on with 1 of 2 (time is up); too late: b",
        ),
        (BarrierOpened("r", 1.0, "j", Reason.ARRIVAL, ("a",), (), (), ("b",)), "pass 1 with a; still to come: b"),
        (BarrierOpened("r", 1.0, "j", Reason.ALL, ("a", "b"), (), (), (), 3), "pass 3, the last: all have arrived"),
        (BarrierOpened("r", 1.0, "j", Reason.ALL, ("a",), ("b",), (), (), 2), "pass 2, the last: goes on without b"),
        (
            BarrierOpened("r", 1.0, "j", Reason.QUORUM, tuple("abcdefg"), tuple("hijklmn")),
            "goes on with 7 of 14 (quorum); without h, i, j, k, l and 2 more",
        ),
    ],
)
def test_why_a_join_goes_on_with_whom_and_without_whom(event: BarrierOpened, told: str | None) -> None:
    assert opened(event) == told


def test_the_summary_tells_late_ones_joins_and_fallbacks_from_failures() -> None:
    nodes = [
        settled("s1", Status.LATE, reason="j went on without it"),
        settled("s2", Status.LATE, reason="j went on without it"),
        settled("j", fallback=1, fallback_error=FAILURE, hedges=1),
    ]
    events = [BarrierOpened("r", 1.0, "j", Reason.TIMEOUT, ("s0",), ("s1", "s2"), ("s1", "s2"))]
    finished = RunFinished(
        "r", 9.0, RunStatus.SUCCEEDED, 9.0, 0.1, 9.0, 9.0, NO_USAGE, {}, {}, {Status.SUCCEEDED: 1, Status.LATE: 2}, 0
    )
    lines = [line.plain for line in summary(finished, nodes, events)]
    assert lines[:3] == [
        "s1, s2 late: j went on without it",
        "j goes on with 1 of 3 (time is up); too late: s1, s2",
        f"j answered by openai/m, as fallback 1: {failure(FAILURE)}",
    ]
    assert settled_text(nodes[2]).endswith(", by openai/m as fallback 1 (rate_limit), hedged")
