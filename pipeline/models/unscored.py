"""Shards that a teacher cannot score, because its logits are not finite somewhere in them: the others are sealed first.

Such a place is met again at every start, and what follows it would never be reached.
"""

from __future__ import annotations

from pipeline.cache.plan import ShardSpan
from pipeline.errors import NumericsError

_IN_A_ROW = 3  # as many, and nothing sealed between them, are no rare row: the teacher is not to be used like this


class Unscored:
    """What was met so far; `refuse` at the end says it."""

    def __init__(self) -> None:
        self._errors: dict[int, NumericsError] = {}
        self._in_a_row = 0

    def sealed_one(self) -> None:
        """A shard was scored: shards that cannot be are counted in a row from here."""
        self._in_a_row = 0

    def note(self, span: ShardSpan, error: NumericsError) -> None:
        """A shard could not be scored; raises the error where too many in a row could not."""
        self._errors[span.index] = error
        self._in_a_row += 1
        if self._in_a_row == _IN_A_ROW:
            raise error

    def refuse(self) -> None:
        """NumericsError where there are any: which, why, and how to go on without them."""
        if not self._errors:
            return
        numbers = ", ".join(str(index + 1) for index in sorted(self._errors))
        first = self._errors[min(self._errors)]
        raise NumericsError(
            f"{first}\nOf this cache shard{'s' * (len(self._errors) > 1)} {numbers} could not be scored for this, and "
            "all others are sealed: `sad-pipeline train-student --use-sealed-only` learns from those."
        ) from first
