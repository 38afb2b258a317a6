"""In which order the tool calls of one turn run."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from agentdag.agents.order import Asked, Effects, filled, order

NAMES = ["a", "b", "c"]
SETS = st.frozensets(st.sampled_from(["x", "y"]), max_size=2)
EFFECTS = st.builds(Effects, SETS, SETS, st.just(frozenset()), st.booleans())


def call(tool: str = "t", effects: Effects | None = None, **arguments: object) -> Asked:
    return Asked(tool, tool, arguments, effects or Effects())


@given(st.lists(st.tuples(st.sampled_from(NAMES), EFFECTS), max_size=7))
def test_what_conflicts_never_overlaps_and_everything_else_may(calls: list[tuple[str, Effects]]) -> None:
    asked = [Asked(name, name, {}, effects) for name, effects in calls]
    before = order(asked)
    assert isinstance(before, list)
    reached: list[set[int]] = []
    for each in before:
        assert all(earlier < len(reached) for earlier in each), "the model's order is kept"
        reached.append(set(each).union(*(reached[earlier] for earlier in each)))
    for one, other in combinations(range(len(asked)), 2):
        conflict = asked[one].effects.conflicts(asked[other].effects)
        ordered = one in reached[other]
        if conflict:
            assert ordered
        elif ordered:  # only by way of others that conflict
            assert any(
                one in reached[between] | {between} and between in reached[other] for between in range(one, other)
            )


def test_independent_calls_wait_for_nobody() -> None:
    assert order([call(), call("u"), call("v", Effects(reads=frozenset("r")))]) == [frozenset()] * 3


def test_readers_wait_for_the_writer_before_them_and_not_for_each_other() -> None:
    reads, writes = Effects(reads=frozenset("r")), Effects(writes=frozenset("r"))
    told = order([call("w", writes), call("x", reads), call("y", reads), call("w", writes)])
    assert told in ([frozenset(), {0}, {0}, {0, 1, 2}], [frozenset(), {0}, {0}, {1, 2}])


def test_a_reference_orders_two_calls_whatever_the_models_order() -> None:
    assert order([call("a", x="$2"), call("b")]) == [{1}, frozenset()]
    assert order([call("a", x=["see ${b}"]), call("b")]) == [{1}, frozenset()]
    assert order([call("a", x="$b"), call("b"), call("b")]) == [frozenset()] * 3, "which one is meant is not clear"
    assert order([call("a", price="$5")]) == [frozenset()]


def test_after_orders_tools_and_a_circle_is_told() -> None:
    later = Effects(after=frozenset({"search"}))
    assert order([call("build", later), call("search")]) == [{1}, frozenset()]
    assert order([call("a", x="$2"), call("b", x="$1")]) == "these calls wait for each other"


def test_what_must_be_alone_is() -> None:
    alone = Effects(parallel=False)
    assert order([call(), call("a", alone), call()]) == [frozenset(), {0}, {1}]


def test_references_are_filled_with_values_and_in_texts_with_words() -> None:
    assert filled({"a": "$1", "b": ["got ${two}", "$9"]}, {"1": {"n": 1}, "two": 2}) == {
        "a": {"n": 1},
        "b": ["got 2", "$9"],
    }
