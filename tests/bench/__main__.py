"""Runs the benchmarks that are named, or all, and prints a table; exit code 1 where a bound is passed."""

from __future__ import annotations

import sys
from importlib import import_module

ALL = (
    "traces",
    "pipelines",
    "overhead",
    "fan",
    "tools",
    "stragglers",
    "journal",
    "kills",
    "startup",
    "limits",
    "saturation",
    "tiers",
)


def main(names: list[str]) -> int:
    failed = 0
    for name in names or ALL:
        print(f"\n{name}: {(import_module(f'tests.bench.{name}').__doc__ or '').splitlines()[0]}")
        for figure in import_module(f"tests.bench.{name}").measure():
            failed += not figure.ok
            mark = "ok " if figure.ok else "OVER"
            print(
                f"  {mark} {figure.name:<44} {figure.ratio:7.3f}  at most {figure.bound:g}  {figure.detail}", flush=True
            )
    return 1 if failed else 0


sys.exit(main(sys.argv[1:]))
