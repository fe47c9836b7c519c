"""Runs tests in forks of one process that has loaded what is not this project's, so that each run begins at once.

A line of standard input is one run: a file for what it says, and pytest's arguments. The answer is its exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys

import pytest

MOST_SECONDS = 400
LOADED = (
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "numcodecs",
    "pydantic",
    "click.testing",
    "rich.progress",
    "safetensors.torch",
    "zarr",
    "hypothesis.core",
    "anyio",
)


def main() -> None:
    """Serve until the input ends."""
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()  # no fork goes through what is loaded here, time after time
    print("ready", flush=True)
    for line in sys.stdin:
        log, *arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.alarm(MOST_SECONDS)  # ends what hangs by a signal: it has noticed nothing
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            code = pytest.main(arguments)
            sys.stdout.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
