"""The teacher's tokenizer as a cache keeps it, checked against what its plan says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.commits import COMMIT, check_commit, write_commit
from pipeline.config import differences
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError, DamagedDataError


def publish_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Replace `folder` by the tokenizer, with the digests of its files; readers see the old or the new.

    A fingerprint says what ids mean; what else its files hold is carried into the student's, and told by digests alone.
    """

    def fill(staging: Path) -> None:
        tokenizer.save(staging)
        write_commit(staging, {path.name: files.digest_file(path) for path in sorted(staging.iterdir())})

    files.publish_folder(folder, fill)


def planned_tokenizer(folder: Path, planned: dict[str, Any]) -> Tokenizer:
    """The tokenizer in `folder`; DamagedDataError where it does not behave as the plan's fingerprint says, or its files
    are not as they were written. (A cache of an earlier version has no digests of them.)

    Cached ids mean what that tokenizer says, so another one would give every token of a student a wrong name.
    """
    if (folder / COMMIT).is_file():
        try:
            check_commit(folder)
        except DamagedDataError as error:
            raise DamagedDataError(f"{error}. {_FIX}") from error
    try:
        tokenizer = Tokenizer.load(folder)
        tokenizer = tokenizer.within(planned.get("vocab_size", tokenizer.vocab_size))
    except ConfigError as error:
        reason = str(error).removesuffix(".")
        raise DamagedDataError(f"{folder}: the tokenizer cannot be read. {reason}. {_FIX}") from error
    if found := differences(planned, tokenizer.fingerprint()):
        lines = "\n".join(found)
        raise DamagedDataError(f"{folder}: is not the tokenizer this cache was planned with:\n{lines}. {_FIX}")
    return tokenizer


_FIX = "Remove this folder and run `sad-pipeline cache-teacher`, which writes it again from the teacher's."
