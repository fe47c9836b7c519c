"""What `bench quality` prints for people."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.benches.quality.table import print_findings
from tests.evaluation.studies import real_study

MACHINE = {"cpu": "Some Processor", "threads": 2}


def test_an_arm_a_line_and_its_gradient_at_each_student(capsys: pytest.CaptureFixture[str]) -> None:
    before = {"start": (12.34, 1.5), "labels": (56.78, 2.25)}
    findings = {
        name: replace(finding, gradients=before | finding.gradients if finding.gradients else {})
        for name, finding in real_study().findings.items()
    }
    print_findings(MACHINE, {"a study": findings})
    said = capsys.readouterr().err
    first, second = said.split("gradient beside full distillation's: a study")
    assert [line.split()[0] for line in first.splitlines() if line.split()[-1:] == ["5"]] == list(findings)
    assert "Some Processor, 2 threads; full is ce0" in " ".join(first.split())
    [default] = [line for line in second.splitlines() if line.split()[:1] == ["default"]]
    assert default.split() == ["default", "12.3°,", "1.50", "56.8°,", "2.25", "6.1°,", "1.01"]
    [labels] = [line for line in second.splitlines() if line.split()[:1] == ["labels"]]
    assert labels.split() == ["labels", "12.3°,", "1.50", "56.8°,", "2.25", "40.8°,", "1.46"]
    assert "full" not in [line.split()[0] for line in second.splitlines() if "°" in line]


def test_without_gradients_there_is_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    findings = {name: replace(finding, gradients={}) for name, finding in real_study().findings.items()}
    print_findings(MACHINE, {"a study": findings})
    assert "gradient" not in capsys.readouterr().err
