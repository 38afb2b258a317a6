"""The functions of spend_review.yaml: sums are for code, judgement is for models."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from decimal import Decimal
from statistics import median
from typing import Any

OUTLIER = 3
"""A payment this many times its vendor's median is worth a question."""


def summarise(ledger: str, top: int) -> dict[str, Any]:
    """Exact sums of *ledger*, CSV text with the columns date (ISO), vendor, category and amount."""
    by_month: dict[str, Decimal] = defaultdict(Decimal)
    payments: dict[str, list[Decimal]] = defaultdict(list)
    category: dict[str, str] = {}
    for row in csv.DictReader(io.StringIO(ledger)):
        amount = Decimal(row["amount"])
        by_month[row["date"][:7]] += amount
        payments[row["vendor"]].append(amount)
        category[row["vendor"]] = row["category"]
    largest = sorted(payments, key=lambda vendor: sum(payments[vendor]), reverse=True)
    return {
        "rows": sum(map(len, payments.values())),
        "total": str(sum(by_month.values())),
        "by_month": {month: str(total) for month, total in sorted(by_month.items())},
        "vendors": [
            {
                "name": vendor,
                "category": category[vendor],
                "total": str(sum(payments[vendor])),
                "payments": len(payments[vendor]),
            }
            for vendor in largest[:top]
        ],
        "outliers": [
            {"vendor": vendor, "amount": str(amount)}
            for vendor, amounts in payments.items()
            for amount in amounts
            if len(amounts) > 2 and amount > OUTLIER * median(amounts)
        ],
    }


def report(figures: dict[str, Any], anomalies: str, savings: str) -> str:
    """The review as Markdown: the table from *figures*, the words from the models."""
    rows = [f"| {vendor['name']} | {vendor['category']} | {vendor['total']} |" for vendor in figures["vendors"]]
    table = "\n".join(["| vendor | category | EUR |", "| --- | --- | ---: |", *rows])
    head = f"# Spend review\n\n{figures['rows']} payments, {figures['total']} EUR."
    return f"{head}\n\n{table}\n\n## To ask about\n\n{anomalies}\n\n## To save\n\n{savings}\n"
