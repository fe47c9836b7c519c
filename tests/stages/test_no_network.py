"""Where no hub id was given nothing is asked of a network and nobody is asked anything, in any command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.stages.toys import REPOSITORY, Toy, status

# Every command in one process, as the command line calls it; whoever turns to a network ends it at once.
ALONE = """
import json, os, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        print(f"{event}{arguments} in {sys.argv}", file=sys.stderr, flush=True)
        os._exit(99)

sys.addaudithook(refuse)
from stages.cli import main

for command in json.loads(sys.argv[1]):
    sys.argv = ["sad-pipeline", *command]
    try:
        main(command)
    except SystemExit as ended:
        assert not ended.code, (command, ended.code)
    print(command[0], "ended")
"""


def commands(toy: Toy, run_dir: Path) -> list[list[str]]:
    """What a user of one run calls, from the first look to the last; a capture by two processes among them."""
    of_a_config = ["doctor", "estimate", "cache-teacher", "train-student", "eval"]
    more = {"cache-teacher": ["--workers", "2"]}
    looks = [["report", str(run_dir)], ["verify", str(run_dir)], ["repair", str(run_dir)], ["inspect", str(run_dir)]]
    return [toy.command(stage, run_dir, *more.get(stage, [])) for stage in of_a_config] + looks


def test_no_command_turns_to_a_network_or_reads_stdin(toy: Toy, tmp_path: Path) -> None:
    """With a stdin that never ends, and the hub's libraries as they are for a user: not told to stay offline."""
    online = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    wanted = commands(toy, tmp_path / "run")
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", ALONE, json.dumps(wanted)],
            cwd=REPOSITORY,
            env=online | {"PYTHONPATH": str(REPOSITORY)},
            stdin=reading,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" ended")] == [c[0] for c in wanted]
    assert status(tmp_path / "run")["state"] == "complete"


def test_the_watch_bites() -> None:
    """The same process that asks for a name is ended."""
    asks = ALONE.partition("from stages.cli")[0] + "\nimport socket\nsocket.getaddrinfo('localhost', 80)"
    done = subprocess.run([sys.executable, "-c", asks, "[]"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 99, done.stderr
