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
        has_code = _leave_code_out(staging)
        plain = Tokenizer.load(staging).within(tokenizer.vocab_size) if has_code else tokenizer
        if differences(tokenizer.fingerprint(), plain.fingerprint()):
            raise ConfigError(
                f"tokenizer {tokenizer.name}: has code of its own, and without it does not do the same. A cache is "
                "read without running any code: use a teacher whose tokenizer.json says all."
            )
        write_commit(staging, {path.name: files.digest_file(path) for path in sorted(staging.iterdir())})

    files.publish_folder(folder, fill)


def _leave_code_out(folder: Path) -> bool:
    """Of a tokenizer that came with code of its own keep the plain one, which runs nothing: whoever reads the cache has
    not said that they trust that code. False where it came with none."""
    path = folder / "tokenizer_config.json"
    settings = files.read_json(path)
    if "auto_map" not in settings:
        return False
    plain = {name: value for name, value in settings.items() if name != "auto_map"}
    files.write_json(path, plain | {"tokenizer_class": "PreTrainedTokenizerFast"})
    for code in folder.glob("*.py"):
        files.remove_file(code)
    return True


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
