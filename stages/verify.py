"""verify: check every byte of a cache against its seals, and what a training left beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.cache.teacher_cache import TeacherCache
from pipeline.cache.verify import Problem, verify_cache
from pipeline.console import say
from pipeline.data.planned_tokenizer import planned_tokenizer
from pipeline.data.report import DataReport
from pipeline.distill.keeping.verify import verify_student
from pipeline.errors import DamagedDataError, IncompleteInputError
from pipeline.evaluation.study.results import RESULTS_NAME, load_results
from pipeline.evaluation.summary import load_result
from pipeline.runs import RunDirectory
from stages.config import roots_of_run


def run(path: Path, roots: Sequence[Path] = ()) -> list[Problem]:
    """Say and return everything wrong; an empty list means every byte is as it was written.

    The roots that the run's own config names are checked with it.
    IncompleteInputError where there is neither a cache nor a student.
    """
    student, roots = RunDirectory(path).student, [*roots, *roots_of_run(path)]
    try:
        problems = verify_cache(path, roots, planned_tokenizer, DataReport.load)
        sealed = "" if problems else _sealed(TeacherCache.open(path, *roots))
    except IncompleteInputError:
        if not student.is_dir():
            raise
        problems, sealed = [], ""  # learned from a cache that lies elsewhere
    of_student = verify_student(student) if student.is_dir() else []
    of_results = list(_results(RunDirectory(path)))
    for problem in [*problems, *of_student, *of_results]:
        say(f"✗ {problem}")
    if sealed:
        say(sealed)
    if student.is_dir() and not of_student:
        say(f"✓ {student}: every checkpoint, the exported model and the log are as they were written")
    found = [*problems, *of_student, *of_results]
    if found:
        say(f"{len(found)} {'problem' if len(found) == 1 else 'problems'}")
    return found


def _results(run: RunDirectory) -> Iterator[Problem]:
    """What eval and a study left, where its content is not what was written."""
    readers: dict[Path, Callable[[Path], object]] = {
        run.evaluation: load_result,
        run.quality / RESULTS_NAME: load_results,
    }
    for path, read in readers.items():
        try:
            if path.is_file():
                read(path)
        except DamagedDataError as error:
            yield Problem.advised(path, error)


def _sealed(cache: TeacherCache) -> str:
    return f"✓ {len(cache.sealed)} of {len(cache.plan.shards)} shards are sealed, and every byte is as it was sealed"
