"""report: tell a run as one self-contained page, from what its stages left on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline import files
from pipeline.cache import TeacherCache
from pipeline.cache.plan import DATA_REPORT_NAME
from pipeline.config import load_config
from pipeline.console import say, warn_once
from pipeline.data.report import DataReport
from pipeline.distill.keeping.metrics_log import TIMINGS
from pipeline.errors import IncompleteInputError
from pipeline.evaluation.cache_facts import facts_of
from pipeline.evaluation.history import TrainingHistory, read_history, read_standing
from pipeline.evaluation.page import render_page
from pipeline.evaluation.story import Story
from pipeline.evaluation.study.results import RESULTS_NAME, load_results
from pipeline.evaluation.summary import load_result
from pipeline.runs import RunDirectory
from stages.config import RunConfig, roots_of_run

STAGE = "report"
_SHOWN_NAMES = 5


def run(run: RunDirectory, compare: Mapping[str, RunDirectory] | None = None) -> Path:
    """Write report/report.html from whatever the run holds by now; `compare` names runs whose training is drawn beside.

    The report changes nothing that other stages left, so it may be made at any time, also while one is at work.
    IncompleteInputError where no stage has left anything.
    """
    _refuse_without_run(run)
    config = load_config(RunConfig, run.config) if run.config.is_file() else None
    cache = _cache(run)
    results, configs = run.quality / RESULTS_NAME, sorted(run.quality.glob("*/config.yaml"))
    story = Story(
        name=config.name if config else run.root.resolve().name,
        run_dir=str(run.root),
        config=config.model_dump(mode="json") if config else {},
        config_text=run.config.read_text(encoding="utf-8") if config else "",
        status=run.read_status(),
        cache=facts_of(cache) if cache else None,
        data=_data(cache) if cache else None,
        training=_training(run),
        standing=read_standing(run.checkpoints),
        evaluation=load_result(run.evaluation) if run.evaluation.is_file() else None,
        studies=load_results(results) if results.is_file() else (),
        study_begun=run.quality.is_dir(),
        study_configs={path.parent.name: path.read_text(encoding="utf-8") for path in configs},
        compare={name: history for name, other in (compare or {}).items() if (history := _training(other))},
        compare_dirs={name: str(other.root) for name, other in (compare or {}).items()},
    )
    for name, other in (compare or {}).items():
        if name not in story.compare:
            warn_once(f"--compare {name}: {other.root} has no log of a training, so nothing of it is drawn")
    files.write_file(run.report, render_page(story).encode(errors="backslashreplace"))
    say(f"{STAGE}: {run.report}")
    return run.report


def _refuse_without_run(run: RunDirectory) -> None:
    """A page is of what stages left: where there is nothing of it, the folder is another one than was meant."""
    told = (run.config, run.cache, run.student, run.evaluation.parent, run.quality)
    if not any(path.exists() for path in told):
        found = sorted(path.name for path in run.root.iterdir()) if run.root.is_dir() else []
        more = f" and {len(found) - _SHOWN_NAMES} more" if len(found) > _SHOWN_NAMES else ""
        raise IncompleteInputError(
            f"{run.root}: no run here; expected config.yaml, cache/, student/, eval/ or quality/, found "
            f"{', '.join(found[:_SHOWN_NAMES]) or 'nothing'}{more}. Name the run directory (artifacts/<config name> "
            "where no --run-dir was given), or begin a run with `sad-pipeline cache-teacher -c CONFIG`."
        )


def _cache(run: RunDirectory) -> TeacherCache | None:
    """The cache of the run, with the parts that lie in other roots; None where none was planned."""
    try:
        return TeacherCache.open(run.cache, *roots_of_run(run.root))
    except IncompleteInputError:
        return None


def _data(cache: TeacherCache) -> DataReport | None:
    """What was found in the text; it lies beside the plan."""
    paths = (folder / DATA_REPORT_NAME for folder in cache.folders)
    path = next((path for path in paths if path.is_file()), None)
    return DataReport.load(path) if path else None


def _training(run: RunDirectory) -> TrainingHistory | None:
    return read_history(run.metrics, run.student / TIMINGS)
