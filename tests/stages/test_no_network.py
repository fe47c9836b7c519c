"""Where no hub id was given nothing is asked of a network and nobody is asked anything, in any command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.stages.toys import REPOSITORY, Toy, status

# Loaded by every interpreter that begins, the workers of a capture among them: whoever turns to a network ends at once.
WATCH = """
import os, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        print(f"{event}{arguments} in {sys.argv}", file=sys.stderr, flush=True)
        os._exit(99)

sys.addaudithook(refuse)
"""
# Every command in one process, as the command line calls it.
ALL = """
import json, sys
from stages.cli import main

if __name__ == "__main__":
    for command in json.loads(sys.argv[1]):
        sys.argv = ["sad-pipeline", *command]
        try:
            main(command)
        except SystemExit as ended:
            assert not ended.code, (command, ended.code)
        print(command[0], "ended")
"""
CHILD = """
import multiprocessing, socket

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=socket.getaddrinfo, args=("localhost", 80))
    process.start()
    process.join()
    raise SystemExit(process.exitcode)
"""


def commands(toy: Toy, run_dir: Path) -> list[list[str]]:
    """What a user of one run calls, from the first look to the last; a capture by two processes among them."""
    of_a_config = ["doctor", "estimate", "cache-teacher", "train-student", "eval"]
    more = {"cache-teacher": ["--workers", "2"]}
    looks = [["report", str(run_dir)], ["verify", str(run_dir)], ["repair", str(run_dir)], ["inspect", str(run_dir)]]
    return [toy.command(stage, run_dir, *more.get(stage, [])) for stage in of_a_config] + looks


def watched(folder: Path, program: str, *arguments: str, stdin: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program, and all interpreters it begins, under the watch."""
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    (folder / "program.py").write_text(program, encoding="utf-8")
    online = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    return subprocess.run(
        [sys.executable, str(folder / "program.py"), *arguments],
        cwd=REPOSITORY,
        env=online | {"PYTHONPATH": os.pathsep.join([str(folder / "watch"), str(REPOSITORY)])},
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_no_command_turns_to_a_network_or_reads_stdin(toy: Toy, tmp_path: Path) -> None:
    """With a stdin that never ends, and the hub's libraries as they are for a user: not told to stay offline."""
    wanted = commands(toy, tmp_path / "run")
    reading, writing = os.pipe()
    try:
        done = watched(tmp_path, ALL, json.dumps(wanted), stdin=reading)
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" ended")] == [c[0] for c in wanted]
    assert status(tmp_path / "run")["state"] == "complete"


def test_the_watch_bites(tmp_path: Path) -> None:
    """A process that asks for a name is ended, and so is one that another began."""
    (tmp_path / "child").mkdir()
    asks = "import socket\nsocket.getaddrinfo('localhost', 80)"
    assert watched(tmp_path, asks).returncode == 99
    assert watched(tmp_path / "child", CHILD).returncode == 99
