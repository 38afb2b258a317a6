"""Values of which many are made, and that nobody changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["value"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from dataclasses import dataclass

    def value(*, frozen: bool, **options: Any) -> Any:
        """A dataclass that the type checker holds to be *frozen*, and that is as cheap to make as if it were not.

        What the standard one does to enforce it in every `__init__` takes seven times as long as the rest of that.
        """
        return dataclass(unsafe_hash=frozen, **options)
