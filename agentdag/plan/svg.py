"""A plan as an SVG picture: a column for each wave, edges that keep clear of nodes, the critical path marked.

The layout is Sugiyama's in short: edges over several columns get a place in each, and every column is put into
the order of its neighbours' middles, to and fro. "Methods for Visual Understanding of Hierarchical System
Structures", 1981.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from xml.sax.saxutils import escape

from agentdag.language.findings import inert
from agentdag.language.scalars import seconds_text
from agentdag.plan.flat import flat
from agentdag.plan.forecast import Forecast
from agentdag.plan.pictures import title
from agentdag.plan.plan import Plan

MAX_BENDS = 20_000
"""Places that long edges take in columns; a graph that needs more has them drawn straight."""
SWEEPS = 6
LETTER, WIDE_LETTER = 7.0, 10.5
"""Widths of the nodes' letters: of most, and of capitals, m and w."""
NODE_HEIGHT = 44
BEND_HEIGHT = 14
GAP = 14
COLUMN_GAP = 56
MARGIN = 24
HEADER = 56
MAX_LETTERS = 28

_STYLE = """\
text{font-family:ui-sans-serif,system-ui,sans-serif;fill:#1f2328}.page{fill:#fff}
.title{font-size:15px;font-weight:600}.wave,.s{font-size:12px;fill:#59636e}.node{font-size:13px}
.node rect{fill:#f6f8fa;stroke:#8c959f}.edge{fill:none;stroke:#8c959f;stroke-opacity:.75}
.arrow{fill:#8c959f}.arrow-hot{fill:#d1242f}.hot rect,.edge.hot{stroke:#d1242f;stroke-width:2;stroke-opacity:1}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.wave,.s{fill:#9198a1}
.node rect{fill:#161b22;stroke:#6e7681}.edge{stroke:#6e7681}.hot rect,.edge.hot{stroke:#ff7b72}
.arrow{fill:#6e7681}.arrow-hot{fill:#ff7b72}}"""
"""Plain colours, for not every reader of SVG knows CSS variables."""


@dataclass
class _Vertex:
    """A node, or the place of a long edge in a column; `y` is its middle."""

    node: int | None
    before: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    y: float = 0.0

    @property
    def height(self) -> int:
        return BEND_HEIGHT if self.node is None else NODE_HEIGHT


class _Layout:
    """Columns of vertices; `ways` are the edges as vertices along them."""

    def __init__(self, plan: Plan) -> None:
        graph = plan.graph
        self.vertices = [_Vertex(number) for number in range(len(plan.nodes))]
        self.columns: list[list[int]] = [list(wave) for wave in graph.waves]
        self.ways: list[tuple[int, ...]] = []
        spans = sum(
            graph.wave_of[node] - graph.wave_of[d] - 1 for node, before in enumerate(graph.needs) for d in before
        )
        for node, before in enumerate(graph.needs):
            for dependency in before:
                between = range(graph.wave_of[dependency] + 1, graph.wave_of[node]) if spans <= MAX_BENDS else ()
                bends = [self._bend(wave) for wave in between]
                way = (dependency, *bends, node)
                self.ways.append(way)
                for left, right in pairwise(way):
                    self.vertices[left].after.append(right)
                    self.vertices[right].before.append(left)
        self.height = max(map(self._height, self.columns), default=0)
        for column in self.columns:
            self._place(column)
        for sweep in range(SWEEPS):
            self._sort(to_the_right=sweep % 2 == 0)

    def _bend(self, wave: int) -> int:
        self.vertices.append(_Vertex(None))
        self.columns[wave].append(len(self.vertices) - 1)
        return len(self.vertices) - 1

    def _sort(self, *, to_the_right: bool) -> None:
        """Put each column into the order of its neighbours' middles on one side."""
        columns = self.columns if to_the_right else self.columns[::-1]
        for column in columns[1:]:
            middles = {}
            for number in column:
                vertex = self.vertices[number]
                beside = vertex.before if to_the_right else vertex.after
                middles[number] = sum(self.vertices[n].y for n in beside) / len(beside) if beside else vertex.y
            column.sort(key=middles.__getitem__)
            self._place(column)

    def _height(self, column: Sequence[int]) -> int:
        return sum(self.vertices[number].height + GAP for number in column) - GAP

    def _place(self, column: Sequence[int]) -> None:
        """Stack *column*, its middle where the tallest column's is."""
        y = (self.height - self._height(column)) / 2
        for number in column:
            vertex = self.vertices[number]
            vertex.y = y + vertex.height / 2
            y += vertex.height + GAP


def to_svg(plan: Plan) -> str:
    """The picture, for light and dark pages alike; it needs nothing from anywhere."""
    heading = title(plan)
    plan = flat(plan, items=False)
    layout = _Layout(plan)
    labels = _labels(plan)
    widths = [max(_width(labels, layout.vertices[n].node) for n in column) for column in layout.columns]
    lefts = [MARGIN + sum(widths[:index]) + COLUMN_GAP * index for index in range(len(widths))]
    wide = max(lefts[-1] + widths[-1] + MARGIN, round(len(heading) * 8.5) + 2 * MARGIN)
    tall = HEADER + layout.height + 2 * MARGIN
    size, sides = f"{wide:.0f} {tall:.0f}", f'width="{wide:.0f}" height="{tall:.0f}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" {sides} role="img">',
        f"<defs>{_arrow('arrow')}{_arrow('arrow-hot')}</defs>",
        f"<title>{escape(heading)}</title><style>{_STYLE}</style>",
        f'<rect class="page" width="{wide:.0f}" height="{tall:.0f}"/>',
        f'<text class="title" x="{MARGIN}" y="{MARGIN + 6}">{escape(heading)}</text>',
    ]
    for index, left in enumerate(lefts):
        lines.append(f'<text class="wave" x="{left:.0f}" y="{HEADER + 4}">wave {index}</text>')
    lines += _edges(plan, layout, lefts, widths)
    lines += _nodes(plan, layout, labels, lefts, widths)
    return "\n".join([*lines, "</svg>"])


def _arrow(name: str) -> str:
    tip = f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"'
    return f'{tip} markerUnits="userSpaceOnUse" orient="auto"><path class="{name}" d="M0 0L8 4L0 8z"/></marker>'


def _labels(plan: Plan) -> list[tuple[str, str]]:
    """The two lines in each node's box: its id, and how long it takes and may be late."""
    told = plan.forecast()
    critical = set(told.critical_path)
    labels = []
    for number, node in enumerate(plan.nodes):
        name = node.id if len(node.id) <= MAX_LETTERS else node.id[: MAX_LETTERS - 1] + "…"
        seconds = seconds_text(node.expected_s) + ("?" if node.assumed else "") if node.made is None else "ends"
        labels.append((name, seconds + ("" if number in critical else _spare(told, number))))
    return labels


def _spare(told: Forecast, number: int) -> str:
    if number in told.late or number in told.lost:
        return ", late" if number in told.late else ", never"
    slack_s = told.slack_s[number]
    return ", any slack" if math.isinf(slack_s) else f", slack {seconds_text(slack_s)}"


def _width(labels: Sequence[tuple[str, str]], node: int | None) -> float:
    if node is None:
        return 0.0
    wide = (sum(WIDE_LETTER if c.isupper() or c in "mw" else LETTER for c in text) for text in labels[node])
    return 26 + max(8 * LETTER, *wide)


def _edges(plan: Plan, layout: _Layout, lefts: Sequence[float], widths: Sequence[float]) -> Iterator[str]:
    """The critical path's last, so that it lies on top."""
    critical = list(plan.forecast().critical_path)
    steps = set(pairwise(critical))
    column_of = {number: index for index, column in enumerate(layout.columns) for number in column}
    sides = {n: (lefts[column_of[n]], lefts[column_of[n]] + widths[column_of[n]]) for way in layout.ways for n in way}
    for way in sorted(layout.ways, key=lambda way: (way[0], way[-1]) in steps):
        drawn = ""
        for before, after in pairwise(way):
            start, end = sides[before][1], sides[after][0]
            y, to = (layout.vertices[number].y + HEADER + MARGIN for number in (before, after))
            drawn += f"H{start:.0f}" if drawn else f"M{start:.0f} {y:.1f}"
            middle = end - COLUMN_GAP / 2
            drawn += f"C{middle:.0f} {y:.1f} {middle:.0f} {to:.1f} {end:.0f} {to:.1f}"
        hot = " hot" if (way[0], way[-1]) in steps else ""
        tip = "arrow-hot" if hot else "arrow"
        yield f'<path class="edge{hot}" d="{drawn}" marker-end="url(#{tip})"/>'


def _nodes(
    plan: Plan,
    layout: _Layout,
    labels: Sequence[tuple[str, str]],
    lefts: Sequence[float],
    widths: Sequence[float],
) -> Iterator[str]:
    critical = set(plan.forecast().critical_path)
    for column, left, width in zip(layout.columns, lefts, widths, strict=True):
        for number in column:
            vertex = layout.vertices[number]
            if vertex.node is None:
                continue
            node = plan.nodes[vertex.node]
            name, seconds = labels[vertex.node]
            y = vertex.y + HEADER + MARGIN - NODE_HEIGHT / 2
            about = f": {inert(node.description)}" if node.description else ""
            about += "" if node.barrier.plain else f" [{node.barrier.told(len(node.needs))}]"
            yield f'<g class="node{" hot" if number in critical else ""}"><title>{escape(node.id + about)}</title>'
            yield f'<rect x="{left:.0f}" y="{y:.1f}" width="{width:.0f}" height="{NODE_HEIGHT}" rx="7"/>'
            yield f'<text x="{left + 12:.0f}" y="{y + 19:.1f}">{escape(name)}</text>'
            yield f'<text class="s" x="{left + 12:.0f}" y="{y + 35:.1f}">{seconds}</text></g>'
