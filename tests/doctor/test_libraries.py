"""Versions of libraries: the floors are those of the project file, and they are compared as numbers."""

from __future__ import annotations

import re
import tomllib

import pytest

from pipeline.doctor.libraries import LEAST_VERSIONS, check_libraries, installed_versions
from tests.doctor.machines import VERSIONS
from tests.source_tree import ROOT


def test_the_floors_are_those_of_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", text).groups() for text in project["dependencies"])  # type: ignore[union-attr]
    assert stated == LEAST_VERSIONS


def test_what_is_installed_here_is_fit() -> None:
    assert {check.state for check in check_libraries(installed_versions())} <= {"ok", "note"}


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("2.9.1", "fault"),
        ("2.10", "ok"),
        ("2.10.0", "ok"),
        ("2.10.0+cu126", "ok"),
        ("2.10.0a0+git5f1", "ok"),
        ("10.0", "ok"),
        ("2", "fault"),
        ("1.13.1", "fault"),
        ("unknown", "fault"),
    ],
)
def test_versions_are_compared_as_numbers(version: str, state: str) -> None:
    assert check_libraries(VERSIONS | {"torch": version})[0].state == state


def test_the_reason_of_a_floor_is_told() -> None:
    for name, reason in (("torch", "CVE-2026-24747"), ("transformers", "CVE-2026-4372"), ("numcodecs", "run code")):
        [line] = [check.line for check in check_libraries(VERSIONS | {name: "0.1"})]
        assert reason in line
    [line] = [check.line for check in check_libraries(VERSIONS | {"torch": None})]
    assert "torch is not installed" in line
    assert "CVE" not in line


def test_a_recommended_version_is_a_note_and_no_more() -> None:
    checks = check_libraries(VERSIONS | {"pyarrow": "18.1.0"})
    assert [(check.name, check.state) for check in checks] == [("libraries", "ok"), ("library", "note")]
    assert [check.state for check in check_libraries(VERSIONS | {"pyarrow": "17.0"})] == ["fault"]
