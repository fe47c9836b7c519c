"""The top of the report: the one figure that says what a run is worth, and what is still missing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from pipeline.console import format_bytes
from pipeline.evaluation.charts import scale_chart
from pipeline.evaluation.markup import Markup, code, element
from pipeline.evaluation.series import Colour, Point
from pipeline.evaluation.story import Story
from pipeline.evaluation.study.findings import DEFAULT, compare
from pipeline.evaluation.study.picture import bytes_chart
from pipeline.evaluation.study.results import StudyResult
from pipeline.evaluation.study_section import share_text
from pipeline.evaluation.summary import EvalResult, Gain, Kind, gain_of, row_title
from pipeline.runs import stages_of

_COLOURS: dict[Kind, Colour] = {"teacher": "teacher", "student": "student", "initial": "rest", "baseline": "baseline"}
_WITH_A_PART_HERE = ("cache-teacher", "train-student", "eval")
_ALONE = (
    "Beside its study this run directory holds nothing: no cache, no student and no evaluation of its own. Those that "
    "the study trained lie in its folder quality."
)


def hero(story: Story) -> Markup:
    """The headline figure: the gain over the best baseline, or the best that can be said so far."""
    if story.evaluation is not None and (gain := gain_of(story.evaluation)) is not None:
        return _hero(*_gain_words(gain), chart=_scale(story.evaluation))
    if story.evaluation is not None and (student := story.evaluation.best_student()) is not None:
        claim = f"The cross-entropy of {row_title(student)}, on text it was not trained on."
        support = "No baseline was evaluated, so this page cannot say what distillation gained."
        return _hero(
            f"{student.cross_entropy_nats:.3f}", "nats a token", "plain", claim, support, _scale(story.evaluation)
        )
    if story.training is not None and (curve := story.training.best_validation()):
        claim = f"The validation cross-entropy after {curve.steps[-1]:,} steps."
        support = "Measured while training, on a few validation sequences."
        return _hero(f"{curve.last:.3f}", "nats a token", "plain", claim, support)
    if story.cache is not None:
        cache = story.cache
        claim = f"The teacher's predictions at {cache.num_scored:,} positions, in {format_bytes(cache.size_bytes)}."
        return _hero(f"{len(cache.sealed)} of {len(cache.shards)}", "shards sealed", "plain", claim, "No student yet.")
    if told := next(filter(None, map(_study_hero, story.studies)), None):
        return told
    if story.studies:
        number = sum(len(study.findings) for study in story.studies)
        return _hero(f"{number}", "arms compared", "plain", "A study of which way of distilling helps.", "")
    return _hero("Nothing", "so far", "plain", "This run directory holds no cache, no student and no figures.", "")


def missing(story: Story) -> Markup:
    """What the run does not have yet or any more, each with the command that makes it."""
    items = []
    if story.study_begun and not story.studies:
        items.append(("A study was begun, and has no figures yet.", _study_command(story)))
    if story.is_study_alone:
        rows = [element("li", _ALONE), *(element("li", what, " Run ", element("code", line)) for what, line in items)]
        return element("div", element("strong", "Not in this report"), element("ul", *rows), class_="missing")
    if story.cache is None or not story.cache.complete:
        what = "There is no teacher cache." if story.cache is None else "The teacher cache is not complete."
        items.append((what, command(story, "cache-teacher")))
    if story.training is None and story.standing is None:
        items.append(("No student was trained.", command(story, "train-student")))
    elif unfinished := _unfinished(story):
        items.append((unfinished, command(story, "train-student")))
    if story.evaluation is None:
        items.append(("The models were not evaluated.", command(story, "eval")))
    elif outdated := _outdated(story):
        items.append((outdated, command(story, "eval")))
    rows = [element("li", line) for line in _stopped(story.status)]
    rows += [element("li", what, " Run ", element("code", line)) for what, line in items]
    if not rows:
        return Markup("")
    return element("div", element("strong", "Not in this report yet"), element("ul", *rows), class_="missing")


def command(story: Story, stage: str) -> str:
    """The command that runs a stage of this run again."""
    if stage == "report":
        compared = [word for name, place in story.compare_dirs.items() for word in ("--compare", f"{name}={place}")]
        return shlex.join(["sad-pipeline", stage, story.run_dir, *compared])
    config = f"{story.run_dir}/config.yaml" if story.config_text else "my.yaml"
    words = ["sad-pipeline", stage, "-c", config, "--run-dir", story.run_dir]
    if stage == "train-student" and story.standing is not None and story.standing.on_some_shards:
        words.append("--use-sealed-only")  # a training keeps to the shards it has begun with
    return shlex.join([*words, *(_eval_settings(story) if stage == "eval" else [])])


def commands(story: Story) -> Markup:
    """The commands that make this run from its config, in order."""
    stages = ("report",) if story.is_study_alone else ("cache-teacher", "train-student", "eval", "report")
    study = [_study_command(story)] if story.study_begun else []
    return code("\n".join([*study, *(command(story, stage) for stage in stages)]))


def _study_command(story: Story) -> str:
    return shlex.join(["sad-pipeline", "bench", "quality", "--run-dir", story.run_dir])


def _eval_settings(story: Story) -> list[str]:
    """What the evaluation was told beyond the run's config: baselines, and the teacher for the exact KL."""
    rows = story.evaluation.rows if story.evaluation else ()
    baselines = {row.name: row.folder for row in rows if row.kind == "baseline" and row.folder}
    settings = []
    if baselines and baselines != story.setting("eval", "baselines"):
        settings += ["--set", f"eval.baselines={json.dumps(baselines, ensure_ascii=False)}"]
    if any(row.kl_exact_nats is not None for row in rows) and not story.setting("eval", "teacher"):
        settings += ["--set", f"eval.teacher={story.setting('teacher', 'model')}"]
    return settings


def _unfinished(story: Story) -> str | None:
    """Where the training stands, unless that is its end."""
    num_steps, standing = story.num_steps(), story.standing
    if standing is None:
        state = stages_of(story.status).get("train-student", {}).get("state")
        return "The training has no checkpoint yet." if state in ("running", "paused", "failed") else None
    if standing.stopped_early or (num_steps is not None and standing.step >= num_steps):
        return None
    of = "" if num_steps is None else f" of {num_steps:,}"
    return f"The training stands at step {standing.step:,}{of}."


def _outdated(story: Story) -> str | None:
    """Why the figures are not those of the student as it is now, if they are not."""
    student = story.evaluation.last_student() if story.evaluation else None
    if student is None or student.step is None or story.standing is None:
        return None
    if student.training_hash != story.standing.training_hash:
        return "The figures are of another training than the one that is in this run now."
    if student.step != story.standing.step:
        return f"The figures are of step {student.step:,}, and the student is at step {story.standing.step:,}."
    return None


def _stopped(status: Mapping[str, Any]) -> list[str]:
    """A line for each stage that ended before its end, or has not ended."""
    lines = []
    for stage, left in stages_of(status).items():
        if left.get("state") in ("paused", "failed"):
            lines.append(f"The last {stage} is {left['state']}: {left.get('message') or 'it left no message'}")
        elif left.get("state") == "running" and stage in _WITH_A_PART_HERE:
            lines.append(f"The last {stage} is at work, or was killed.")
    return lines


def _gain_words(gain: Gain) -> tuple[str, str, str, str, str]:
    student, baseline = gain.student, gain.baseline
    claim = (
        f"Validation cross-entropy {'falls' if gain.nats > 0 else 'rises'} from {baseline.cross_entropy_nats:.3f} "
        f"nats a token for {row_title(baseline)} to {student.cross_entropy_nats:.3f} for {row_title(student)}, "
        f"perplexity from {baseline.perplexity:,.1f} to {student.perplexity:,.1f}."
    )
    if gain.nats <= 0:
        return f"{-gain.nats:.3f}", "nats worse", "worse", claim, "In this run the student did not beat its baseline."
    share = gain.gap_closed
    support = "" if share is None else f"That is {share:.0%} of the way from {row_title(baseline)} to the teacher."
    return f"{gain.nats:.3f}", "nats gained", "", claim, support


def _hero(figure: str, unit: str, tone: str, claim: str, support: str, chart: Markup | None = None) -> Markup:
    number = element("p", figure, element("small", unit), class_=f"figure {tone}".strip())
    words = element("div", number, element("p", claim, class_="claim"), element("p", support, class_="support"))
    return element("section", words, chart or "", id="summary", class_="hero" if chart else "hero alone")


def _study_hero(study: StudyResult) -> Markup | None:
    """How much of full distillation's gain the default's cache keeps; None where the study does not say."""
    default = study.findings.get(DEFAULT)
    share = compare(default, study.findings).kl_gain_share if default else None
    if default is None or share is None:
        return None
    size = "" if default.bytes_per_token is None else f", {default.bytes_per_token:,.0f} bytes a token"
    claim = f"Of what full distillation gains over labels only, so much is kept by the default's cache{size}."
    support = f"{share_text(share)}, by the KL to the teacher on held-out text; {study.title}."
    chart = bytes_chart("scale", study)
    return _hero(f"{share.mean:.0%}", "of the gain", "plain", claim, support, Markup(chart.svg) if chart else None)


def _scale(result: EvalResult) -> Markup:
    """The trained models and the teacher on one scale; of each kind the best, so the picture stays plain."""
    student = result.best_student()
    rows = [row for row in result.rows if row.kind in ("teacher", "baseline") or row is student]
    rows.sort(key=lambda row: row.cross_entropy_nats)
    points = [Point(row_title(row), row.cross_entropy_nats, _COLOURS[row.kind]) for row in rows]
    return Markup(scale_chart("scale", points, "validation cross-entropy, nats a token (lower is better)").svg)
