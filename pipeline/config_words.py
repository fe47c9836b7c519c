"""What is wrong with a config, in words: what a key takes, what was found, and which key may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_too_short": "text of at least {min_length} characters",
    "string_pattern_mismatch": "text that fits the pattern {pattern}",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "a list of at least {min_length} items",
    "too_long": "a list of at most {max_length} items",
    "dict_type": "a group of keys",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "at most {le}",
}
"""Kind of error of pydantic's -> what is expected; in braces what it says of the bounds"""
_ALIASES = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "batch": "batch_size",
    "temp": "temperature",
    "tau": "temperature",
    "alpha": "kd_weight",
    "wd": "weight_decay",
    "warmup": "warmup_steps",
    "grad_accum": "accumulation",
    "gradient_accumulation_steps": "accumulation",
    "seq_len": "sequence_length",
    "max_length": "sequence_length",
    "topk": "head_size",
    "top_k": "head_size",
}
"""Names that other programs have for a key -> its name here"""
_MOST_NAMES = 5
_QUOTES = "put quotes around it where text is meant"
_BOOLEANS = "yes, no, on and off are booleans in YAML"


def wrong_value(key: str, problem: Any, takes_text: bool) -> str:
    """What is wrong with the value of a key, from an error of pydantic's."""
    kind, found = problem["type"], problem["input"]
    if kind in _EXPECTED:
        bounds = {name: _plain(value) for name, value in problem.get("ctx", {}).items()}
        message = f"expected {_EXPECTED[kind].format(**bounds)}"
    else:
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        message = f"{message[0].lower()}{message[1:]}"
    if isinstance(found, dict) and kind == "value_error":  # keys that do not go together: it names them
        return f"{key!r}: {message}"
    hints = [_BOOLEANS] if holds_boolean(found) else []
    if (kind == "string_type" and found is not None) or (takes_text and hints):
        hints.append(_QUOTES)
    said = f" ({'; '.join(hints)})" if hints else ""
    return f"{key!r}: {message}, found {found!r}{said}"


def holds_boolean(value: Any) -> bool:
    """Whether a value is a boolean, or a list with one in it."""
    return isinstance(value, bool) or (isinstance(value, (list, tuple)) and any(map(holds_boolean, value)))


def suggestion(key: str, known: Sequence[str]) -> str:
    """The right key for an unknown one: of that name or meaning elsewhere, beside it, anywhere if nothing is beside it.

    Where none is near, those that are least far, or the command that lists all of the section.
    """
    parent, _, name = key.rpartition(".")
    siblings = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == parent}
    everywhere = list(dict.fromkeys(other.rpartition(".")[2] for other in known))
    near = (
        _called(_ALIASES.get(name, ""), siblings, known)
        or _called(name, siblings, known)
        or [siblings[other] for other in difflib.get_close_matches(name, siblings, 1, 0.6)]
        or ([] if siblings else difflib.get_close_matches(key, known, 1, 0.7))
        or [other for like in difflib.get_close_matches(name, everywhere, 1, 0.8) for other in _called(like, {}, known)]
    )
    if near:
        *others, last = map(repr, near[:_MOST_NAMES])
        return f"did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
    beside = list(siblings.values()) or list(known)
    if len(beside) <= _MOST_NAMES:
        return f"known here: {', '.join(beside)}"
    far = [siblings[other] for other in difflib.get_close_matches(name, siblings, _MOST_NAMES, 0.35)]
    nearest = f"the nearest are {', '.join(far)}; " if far else ""
    command = f"sad-pipeline keys {parent}".strip()
    return f"{nearest}`{command}` lists all {len(beside)} that are known here"


def did_you_mean(names: Sequence[str], known: Sequence[str]) -> str:
    """`; did you mean ...?` for names that are nearly known ones, else nothing."""
    near = [repr(other) for name in names for other in difflib.get_close_matches(name, known, 1)]
    return f"; did you mean {', '.join(near)}?" if near else ""


def _called(name: str, siblings: dict[str, str], known: Sequence[str]) -> list[str]:
    """The key of this name beside, or else those of this name anywhere."""
    return [siblings[name]] if name in siblings else [key for key in known if key.rpartition(".")[2] == name]


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
