"""The whole configuration of a run, composed of the sections each room of the library keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pydantic

from pipeline.cache.settings import CacheSettings
from pipeline.config import Section, free, load_config
from pipeline.config_words import did_you_mean
from pipeline.console import warn_once
from pipeline.data.settings import DataSettings
from pipeline.distill.settings import TrainSettings
from pipeline.errors import ConfigError
from pipeline.evaluation.settings import EvalSettings
from pipeline.models.settings import StudentSettings, TeacherSettings
from pipeline.runs import RunDirectory
from pipeline.session import SessionSettings

_NAME = re.compile(r"\w[\w .+-]*")


class DemoSettings(Section):
    """How a teacher is made where there is none to load, by the demo and the benches; and the rate at which the demo's
    student learns from labels only."""

    vocab_size: int = free(8192, "of the byte-level BPE tokenizer", ge=300)
    teacher: dict[str, Any] = free(doc="config block of the teacher, as in student.config")
    teacher_steps: int = free(doc="optimizer steps of the teacher", ge=1)
    teacher_batch_size: int = free(16, "sequences a step", ge=1)
    teacher_learning_rate: float = free(2e-3, "peak of its schedule", gt=0)
    labels_only_learning_rate: float | None = free(
        None, "of the demo's student trained on labels only; none: train.learning_rate", gt=0
    )


class RunConfig(Section):
    """Everything a run is asked to do."""

    name: str = free("run", "names the default run directory, artifacts/<name>")
    data: DataSettings
    teacher: TeacherSettings
    cache: CacheSettings = CacheSettings()
    student: StudentSettings
    train: TrainSettings
    eval: EvalSettings = EvalSettings()
    session: SessionSettings = SessionSettings()
    demo: DemoSettings | None = None

    @pydantic.field_validator("name")
    @classmethod
    def _can_name_a_folder(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("expected letters, digits, spaces and any of . + - _, with a letter or digit first")
        return name

    @pydantic.model_validator(mode="before")
    @classmethod
    def _temperature_of_the_kind(cls, values: Any) -> Any:
        """Where none is given, records of the kind `sampled` are learned from at the only one they are right at."""
        cache, train = (values.get(name) if isinstance(values, dict) else None for name in ("cache", "train"))
        if not isinstance(cache, dict) or not isinstance(train, dict) or cache.get("kind") != "sampled":
            return values
        temperature = train.get("temperature", {})
        if not isinstance(temperature, dict) or temperature.keys() & {"start", "end"}:
            return values
        return values | {"train": train | {"temperature": {"start": 1.0, "end": 1.0} | temperature}}


def bundled_configs() -> dict[str, Path]:
    """Name -> file, of the configs that come with the project."""
    here = Path(__file__).parent
    folder = here / "configs" if (here / "configs").is_dir() else here.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_run_config(reference: str, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a config by file name, or by the name of a bundled one."""
    path = Path(reference)
    if not path.is_file():
        bundled = bundled_configs()
        if reference not in bundled:
            near = did_you_mean([path.stem if path.suffix == ".yaml" else reference], list(bundled)) or "."
            raise ConfigError(
                f"-c {reference}: no such file, and no bundled config of that name{near} Bundled: {', '.join(bundled)}."
            )
        path = bundled[reference]
    config = load_config(RunConfig, path, overrides)
    for section, unused in (("data", config.data.unused()), ("student", config.student.unused())):
        for name, reason in unused.items():
            warn_once(f"{section}.{name} is set and not used, for {reason}")
    return config


def roots_of_run(run_dir: Path) -> list[Path]:
    """The cache.roots that the config of a run names, as far as they are there; none where it is no run.

    Whoever only looks at a run may do so where its roots are not mounted, and is told what is passed over.
    """
    path = RunDirectory(run_dir).config
    if not path.is_file():
        return []
    try:
        roots = [Path(root) for root in load_config(RunConfig, path).cache.roots]
    except ConfigError as error:
        warn_once(f"{error}\nIts cache.roots, if it names any, are passed over; name them with --root.")
        return []
    for root in roots:
        if not root.is_dir():
            warn_once(f"{root}: is a root of this run and not here; what lies in it is passed over")
    return [root for root in roots if root.is_dir()]
