"""What can go wrong, and the exit code each kind of trouble gets.

Every message says what was expected, what was found, where, and what to do next. An assertion is for our mistakes;
these are for everything else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class SadError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code = 1


class ConfigError(SadError, ValueError):
    """The configuration, the command line or the input text cannot be used as given."""

    exit_code = 2


class IdentityError(SadError):
    """What is on disk was made from something else than what the configuration now names."""

    exit_code = 3


class DamagedDataError(SadError):
    """Bytes on disk are not the bytes that were sealed."""

    exit_code = 4


@contextlib.contextmanager
def mended_by(fix: str) -> Iterator[None]:
    """Say at the end of a DamagedDataError what to do about it, where only the caller knows."""
    try:
        yield
    except DamagedDataError as error:
        raise DamagedDataError(f"{error}. {fix}") from error


class MachineError(SadError):
    """This machine, or a library on it, cannot do what was asked."""

    exit_code = 5


class IncompleteInputError(SadError):
    """An earlier stage has not finished what this one reads."""

    exit_code = 6


class StorageError(SadError):
    """The disk is full, cannot be written, or another command is at work there."""

    exit_code = 7


class NumericsError(SadError):
    """A model produced numbers that are not finite."""

    exit_code = 1


def first_line(error: Exception) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
