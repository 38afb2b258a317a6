"""What a single value of the language looks like: durations, counts, models, names of functions.

Each type reads the value as people write it, refuses the rest in the words of the language, and tells editors its form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
MODEL_NAME = re.compile(r"([^/\s]+)/(\S+)")
CALL_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", re.ASCII)

_DURATION = re.compile(
    r"(?:(\d{1,5})d)?(?:(\d{1,6})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,12})ms)?", re.ASCII
)
_UNITS_S = (Decimal(86_400), Decimal(3600), Decimal(60), Decimal(1), Decimal("0.001"))
DURATION_FORMS = "500ms, 45s, 2m30s or 2h"


def refusal(message: str, hint: str | None = None, *, lacks: bool = False) -> PydanticCustomError:
    """A validation error in the words of the language; *lacks* says that it is about what is not there."""
    return PydanticCustomError("refused", "{message}", {"message": message, "hint": hint, "lacks": lacks})


def duration_s(value: Any) -> float:
    """Seconds of a duration such as `500ms`, `45s`, `2m30s`, `2h`, `7d`; raises where *value* is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise refusal(f"the number {value} has no unit", f"write {value}s for seconds")
    if not isinstance(value, str) or not value.strip():
        raise refusal(f"a duration is due here, not {describe(value)}", f"write {DURATION_FORMS}")
    seconds = _seconds(value.strip())
    if seconds is None:
        raise refusal(f"{describe(value)} is not a duration", f"write {DURATION_FORMS}")
    return seconds


def limit_s(value: Any, besides: str = "") -> float:
    """As `duration_s`, of a duration above zero; *besides* says what else may stand there."""
    if isinstance(value, str) and not _DURATION.fullmatch(value.strip()) and besides:
        raise refusal(f"{describe(value)} is not a duration", f"write {DURATION_FORMS}, {besides}")
    seconds = duration_s(value)
    if not seconds:
        raise refusal(f"{describe(value)} is no time at all", f"write {DURATION_FORMS}")
    return seconds


@lru_cache(maxsize=1024)
def _seconds(text: str) -> float | None:
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    return float(sum(Decimal(part) * unit for part, unit in zip(match.groups(), _UNITS_S, strict=True) if part))


def duration_text(seconds: float) -> str:
    """*seconds* as the language writes them, to the millisecond: the reverse of `duration_s`."""
    left = round(seconds * 1000)
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000)):
        whole, left = divmod(left, size)
        if whole:
            parts.append(f"{whole}{unit}")
    if left:
        parts.append(f"{left}ms" if left < 1000 else f"{left / 1000:g}s")
    return "".join(parts) or "0s"


def seconds_text(seconds: float) -> str:
    """*seconds* for people, in figures that can be compared: 0.4 s, 95 s, 12 min 05 s, 2 h 10 min."""
    if 0 < seconds < 0.05:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 600:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    told = f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole < 7200:
        told = f"{whole // 60} min {whole % 60:02d} s"
    return told.removesuffix(" 00 s").removesuffix(" 00 min")


def describe(value: Any) -> str:
    """*value* in words, for messages: the text 'x', the number 3, a list."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value if len(value) <= 40 else value[:37] + '...'!r}"
        case list():
            return "a list"
        case dict():
            return "a mapping"
    return type(value).__name__


class Written:
    """Tells editors how a value is written, where that is not how it is kept.

    *also* is one more form beside the type's own; *only* is the one form there is.
    """

    def __init__(self, *, also: dict[str, Any] | None = None, only: dict[str, Any] | None = None) -> None:
        self._also = also
        self._only = only

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Callable[[Any], Any]) -> Any:
        if self._only is not None:
            return dict(self._only)
        return {"anyOf": [self._also, handler(core_schema)]}


def _check_model(value: Any) -> Any:
    if isinstance(value, str) and not MODEL_NAME.fullmatch(value):
        lacks = "model" if value.endswith("/") else "provider"
        raise refusal(f"{describe(value)} names no {lacks}", "write `provider/model`, such as openai/gpt-5-mini")
    return value


def _check_call(value: str) -> str:
    if not CALL_NAME.fullmatch(value):
        raise refusal(f"{describe(value)} names no function", "write `package.module:function`")
    return value


MODEL_FORM = {"type": "string", "pattern": r"^[^/\s]+/\S+$"}
_DURATION_PATTERN = r"(\d{1,5}d)?(\d{1,6}h)?(\d{1,9}m)?(\d{1,9}(\.\d{1,9})?s)?(\d{1,12}ms)?$"
_DURATION_FORM = {"type": "string", "pattern": rf"^(?=.*\d){_DURATION_PATTERN}"}
LIMIT_FORM = {"type": "string", "pattern": rf"^(?=.*[1-9]){_DURATION_PATTERN}"}
_CALL_FORM = {"type": "string", "pattern": f"^{CALL_NAME.pattern}$"}
_COUNT_WITH_UNDERSCORES = {"type": "string", "pattern": r"^[0-9]+(_[0-9]+)+$"}
"""How editors, which read YAML without this addition, see the count 200_000."""


def _age_s(value: Any) -> float | None:
    """How old something may be: a duration, `true` for any age, `false` for none."""
    if isinstance(value, bool):
        return math.inf if value else None
    return limit_s(value, "or true")


Duration = Annotated[float, BeforeValidator(duration_s), Written(only=_DURATION_FORM)]
Limit = Annotated[float, BeforeValidator(duration_s), Field(gt=0), Written(only=LIMIT_FORM)]
Age = Annotated[float | None, BeforeValidator(_age_s), Written(only={"anyOf": [LIMIT_FORM, {"type": "boolean"}]})]
Count = Annotated[int, Field(ge=0), Written(also=_COUNT_WITH_UNDERSCORES)]
Positive = Annotated[int, Field(ge=1), Written(also=_COUNT_WITH_UNDERSCORES)]
Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[str, ...] = get_args(Priority)
"""What goes first stands first."""
LOW_PRIORITY = PRIORITIES.index("low")
"""Of what a low budget sheds."""
ModelName = Annotated[str, BeforeValidator(_check_model), Written(only=MODEL_FORM)]
FunctionName = Annotated[str, AfterValidator(_check_call), Written(only=_CALL_FORM)]
