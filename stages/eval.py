"""eval: measure the student, the one it began as, and any baselines on held-out sequences."""

from __future__ import annotations

import itertools
from pathlib import Path

from rich.console import Console

from pipeline.cache import TeacherCache
from pipeline.console import say, warn_once
from pipeline.doctor.examine import refuse_unfit
from pipeline.errors import NumericsError
from pipeline.evaluation.candidates import baseline_candidates, student_candidates
from pipeline.evaluation.measures import data_of, held_out_indices, measure_model, teacher_measures
from pipeline.evaluation.references import baseline_origins, teacher_at_hand
from pipeline.evaluation.samples import continue_texts, held_out_beginnings, samples_of, written_beginnings
from pipeline.evaluation.settings import TEACHER
from pipeline.evaluation.summary import EvalResult, ModelRow, row_title, save_result, summary_table
from pipeline.evaluation.trained import find_student
from pipeline.models.cache_tokenizer import tokenizer_of
from pipeline.models.device import choose_device, environment
from pipeline.runs import RunDirectory
from stages.config import RunConfig, roots_of_run

STAGE = "eval"


def run(config: RunConfig, run: RunDirectory) -> EvalResult:
    """Measure one model after another on the cache's validation sequences, and let each write a little.

    Where the config names no roots of the cache, those count that the run was trained with.
    """
    settings = config.eval
    roots = [Path(root) for root in config.cache.roots] or roots_of_run(run.root)
    with run.at_work(STAGE), TeacherCache.open(run.cache, *roots) as cache:
        tokenizer = tokenizer_of(cache.plan, cache.folders)
        indices = held_out_indices(cache, settings.max_sequences)
        refuse_unfit(run.root, config.student.device)
        device = choose_device(config.student.device)

        # What is named is looked at first: a wrong name is told before the work, not after it.
        trained = find_student(run, cache, config.student, config.train)
        origins = baseline_origins(settings.baselines, config.student, tokenizer, cache.plan.sequence_length)
        if settings.sample_prompts:
            beginnings = written_beginnings(settings.sample_prompts, tokenizer)
        else:
            beginnings = held_out_beginnings(cache, indices, settings.sample_tokens)

        # A teacher at hand gives the exact KL beside the lower bound that the cache gives.
        teacher = None
        if settings.teacher is not None:
            teacher = teacher_at_hand(cache.plan, config.teacher.model_copy(update={"model": settings.teacher}))

        rows = [ModelRow.of(teacher_measures(cache, indices), TEACHER, "teacher")]
        texts: dict[str, list[str]] = {}
        candidates = itertools.chain(
            student_candidates(trained, config.student, tokenizer, device),
            baseline_candidates(origins, cache.plan, tokenizer, device),
        )
        for candidate in candidates:
            title = " ".join(filter(None, (candidate.name, candidate.weights)))
            say(f"{STAGE}: {title}")
            try:
                row = candidate.row(measure_model(candidate.model, cache, indices, settings.batch_size, teacher))
            except NumericsError as error:
                if candidate.folder == str(trained.model) or candidate.kind != "student" or trained.model is None:
                    raise
                warn_once(f"{title}, of the last step, is left out. {error}")
                del candidate
                continue
            rows.append(row)
            if candidate.kind != "initial" and settings.sample_tokens:
                texts[row_title(row)] = continue_texts(candidate.model, beginnings, settings.sample_tokens, tokenizer)
            del candidate  # the next one needs its memory

        result = EvalResult(
            data_of(cache, indices), environment(device), tuple(rows), samples_of(beginnings, texts, tokenizer)
        )
        save_result(run.evaluation, result)
        Console(stderr=True).print(summary_table(result))
        run.write_status(STAGE, "complete", message=f"{len(rows)} models measured; figures in {run.evaluation}")
    return result
