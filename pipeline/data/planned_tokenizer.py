"""The teacher's tokenizer as a cache keeps it, checked against what its plan says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import differences
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError, DamagedDataError


def planned_tokenizer(folder: Path, planned: dict[str, Any]) -> Tokenizer:
    """The tokenizer in `folder`; DamagedDataError where it does not behave as the plan's fingerprint says.

    Cached ids mean what that tokenizer says, so another one would give every token of a student a wrong name.
    """
    try:
        tokenizer = Tokenizer.load(folder)
        tokenizer = tokenizer.within(planned.get("vocab_size", tokenizer.vocab_size))
    except ConfigError as error:
        raise DamagedDataError(f"{folder}: the tokenizer cannot be read. {error} {_FIX}") from error
    if found := differences(planned, tokenizer.fingerprint()):
        lines = "\n".join(found)
        raise DamagedDataError(f"{folder}: is not the tokenizer this cache was planned with:\n{lines}\n{_FIX}")
    return tokenizer


_FIX = "Remove this folder and run `sad-pipeline cache-teacher`, which writes it again from the teacher's."
