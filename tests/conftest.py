"""Shared fixtures; everything is hermetic: no network, tiny models, folders laid out as a user's."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["KAGGLE_KERNEL_RUN_TYPE"] = os.environ["SAD_SESSION_START"] = ""  # no session but what a test makes up

from tests import tiny
from tests.reliability import tally

_CODE = tally.code_digest() if tally.LONG else ""
_set_up: dict[str, float] = {}


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved byte-level tokenizer."""
    return tiny.save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny Llama with its tokenizer."""
    return tiny.save_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def texts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small text files."""
    return tiny.write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """Where a test writes its config."""
    return tmp_path / "my.yaml"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A long run of the reliability suites does what is left of it."""
    done = tally.passed_before()
    left = [item for item in items if item.nodeid not in done]
    if len(left) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
        items[:] = left


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """And remembers what it did, and how long that took; with several processes, in the one that directs them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if report.when == "setup":
        _set_up[report.nodeid] = report.duration
    elif report.when == "call" and report.passed and (done := tally.done_in(report)):
        done["took"] = report.duration + _set_up.get(report.nodeid, 0.0)
        if tally.LONG:
            tally.keep(report.nodeid, done, _CODE)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the reliability suites did, and of the thirteen faults, how many stay fixed."""
    done = {report.nodeid: tally.done_in(report) for report in terminalreporter.getreports("passed")}
    now = {nodeid: of_test for nodeid, of_test in done.items() if of_test is not None}
    for line in tally.summary((tally.passed_before() | now).items()):
        terminalreporter.write_line(line)
    _tell_the_thirteen(terminalreporter)


def _tell_the_thirteen(terminalreporter: pytest.TerminalReporter) -> None:
    """One whose tests all passed counts."""
    outcomes: dict[str, set[str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            if found := re.search(r"test_thirteen\.py::test_(\d\d)_", report.nodeid):
                outcomes.setdefault(found[1], set()).add(outcome)
    if outcomes:
        fixed = sum(seen == {"passed"} for seen in outcomes.values())
        terminalreporter.write_line(f"the thirteen: {fixed}/13")
