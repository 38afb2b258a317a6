"""How many tokens a call will have: a guess that learns from every answer, of each node and of each model.

Pure arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentdag.calls import BYTES_PER_TOKEN, Usage
from agentdag.limits.rates import Need

WEIGHT = 0.25
"""How much the latest answer counts in a moving average."""


@dataclass(slots=True)
class _Seen:
    """Moving averages of what was seen."""

    tokens_per_byte: float
    input_tokens: float
    output_tokens: float

    def add(self, size: int, input_tokens: int, output_tokens: int) -> None:
        self.tokens_per_byte += WEIGHT * (input_tokens / max(1, size) - self.tokens_per_byte)
        self.input_tokens += WEIGHT * (input_tokens - self.input_tokens)
        self.output_tokens += WEIGHT * (output_tokens - self.output_tokens)


class Estimates:
    """What is known of each node on each lane, and of each lane as a whole."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], _Seen] = {}

    def need(self, node: str, lane: str, size: int, expected_output: int) -> Need:
        """Of a request of *size* bytes; *expected_output* where nothing was seen of the node."""
        own, any_ = self._seen.get((node, lane)), self._seen.get(("", lane))
        known = own or any_
        per_byte = 1 / BYTES_PER_TOKEN if known is None else known.tokens_per_byte
        return Need(round(size * per_byte), expected_output if own is None else round(own.output_tokens))

    def typical(self, node: str, lane: str) -> Need:
        """Of a request that is not written yet."""
        known = self._seen.get((node, lane)) or self._seen.get(("", lane))
        return Need() if known is None else Need(round(known.input_tokens), round(known.output_tokens))

    def learn(self, node: str, lane: str, size: int, usage: Usage) -> None:
        """A request of *size* bytes took *usage*; what was not counted teaches nothing."""
        if usage.estimated or usage.input_tokens is None or usage.output_tokens is None:
            return
        for key in ((node, lane), ("", lane)):
            if key in self._seen:
                self._seen[key].add(size, usage.input_tokens, usage.output_tokens)
            else:
                per_byte = usage.input_tokens / max(1, size)
                self._seen[key] = _Seen(per_byte, usage.input_tokens, usage.output_tokens)
