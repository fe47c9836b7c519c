"""quality.json: what a study found, and what it was measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pipeline import files
from pipeline.errors import DamagedDataError, mended_by
from pipeline.evaluation.digests import check_digest, with_digest
from pipeline.evaluation.study.findings import Finding
from pipeline.evaluation.study.foreign import count_of, fields_of, list_of, number_of, text_of

FORMAT_VERSION = 1
RESULTS_NAME = "quality.json"
_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "str": text_of,
    "str | None": text_of,
    "int": count_of,
    "float": number_of,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What the arms of a study have in common."""

    text: str
    """where it came from"""
    teacher: str | None
    """None where the study made it, on that text"""
    teacher_parameters: int
    teacher_ce_nats: float
    """of the labels that the students are measured on"""
    student: str
    student_parameters: int
    beginning_steps: int
    """on labels alone, that every student has behind it; 0 where it comes as the config has it"""
    steps: int
    vocab_size: int
    head_size: int
    """K of the default's cache"""
    num_sequences: int
    """held out, that the students are measured on"""
    num_positions: int
    """scored ones among them"""

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read back what `asdict` gave; ValueError for anything else."""
        parts = dict(fields_of(value, "setting", cls))
        if parts["teacher"] is None:
            del parts["teacher"]
        read = {name: _READERS[cls.__annotations__[name]](part, f"setting, {name}") for name, part in parts.items()}
        return cls(**({"teacher": None} | read))


@dataclass(frozen=True, slots=True)
class StudyResult:
    """Arms beside each other, on one setting."""

    title: str
    setting: Setting
    findings: Mapping[str, Finding]
    """by the arm's name, in the order of the study"""

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        findings = [finding.to_json() for finding in self.findings.values()]
        return {"title": self.title, "setting": asdict(self.setting), "findings": findings}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read back what `to_json` gave; ValueError for anything else, with what and where."""
        parts = fields_of(value, "a study", cls)
        findings = [Finding.from_json(each) for each in list_of(parts["findings"], "findings")]
        names = [finding.arm for finding in findings]
        if len(set(names)) < len(names):
            raise ValueError(f"findings: an arm comes twice: {sorted({n for n in names if names.count(n) > 1})}")
        setting = Setting.from_json(parts["setting"])
        return cls(text_of(parts["title"], "title"), setting, dict(zip(names, findings, strict=True)))


def save_results(path: Path, studies: Sequence[StudyResult], figures: Mapping[str, float]) -> None:
    """Write quality.json; nothing in it depends on the clock or on how often the study was stopped."""
    told = {"format": FORMAT_VERSION, "studies": [study.to_json() for study in studies], "figures": dict(figures)}
    files.write_json(path, with_digest(told))


def load_results(path: Path) -> tuple[StudyResult, ...]:
    """Read quality.json; DamagedDataError when it is not what `save_results` of this version writes."""
    again = "Run `sad-pipeline bench quality` again as before: its trainings are kept, and it writes this file anew."
    with mended_by(again):
        value = files.read_json(path)
    if value.get("format") != FORMAT_VERSION:
        raise DamagedDataError(
            f"{path}: expected study format {FORMAT_VERSION}, found {value.get('format')!r}. {again}"
        )
    try:
        results = tuple(StudyResult.from_json(study) for study in list_of(value.get("studies"), "studies"))
    except ValueError as error:
        raise DamagedDataError(f"{path}: {error}. {again}") from error
    check_digest(value, path, again)
    return results
