"""Benchmarks: every figure is a ratio, in one run, against a baseline that stands beside it.

`make bench` runs them all; `python -m tests.bench NAME...` some. Nothing here is part of the tests.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured ratio and what it should at most be."""

    name: str
    ratio: float
    bound: float
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.ratio <= self.bound
