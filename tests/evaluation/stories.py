"""Stories of invented runs: every part present, in the shapes real stages leave."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.cache.layout import RecordLayout
from pipeline.data.report import DataReport, Dropped, SplitCounts
from pipeline.evaluation.cache_facts import CacheFacts, Retained, ShardFact
from pipeline.evaluation.history import TrainingHistory
from pipeline.evaluation.page import render_page
from pipeline.evaluation.story import Story
from pipeline.evaluation.summary import EvalData, EvalResult, Kind, Measures, ModelRow, TextSample, Weights
from tests.evaluation.studies import crowded_study, real_study, study_of_one_seed

HOSTILE = "</style></pre><script>document.title='owned'</script><img src=x onerror=alert(1)>&amp;\"'"


def make_row(name: str, kind: Kind, nats: float, weights: Weights | None = None, **others: Any) -> ModelRow:
    """A row with the perplexity and bits that belong to its cross-entropy."""
    capped = nats > 20
    measures = Measures(nats, math.exp(min(nats, 20)), capped, nats * 0.42, **others)
    return ModelRow.of(measures, name, kind, weights)


def make_result(student_nats: float = 4.275) -> EvalResult:
    """Teacher, student raw and EMA, a baseline and the initial student."""
    machine = {"tokens_per_second": 8123.0, "peak_memory_bytes": 1_400_000_000, "memory_kind": "process"}
    return EvalResult(
        data=EvalData(512, 120_331, 410_221),
        environment={"torch": "2.13.0", "device_class": "cpu"},
        rows=(
            make_row("teacher", "teacher", 3.312),
            make_row("student", "student", student_nats + 0.006, "raw", kl_bucket_nats=0.698, kl_exact_nats=0.712,
                     top1_agreement=0.44, **machine),
            make_row("student", "student", student_nats, "ema", kl_bucket_nats=0.695, kl_exact_nats=0.709,
                     top1_agreement=0.443, **machine),
            make_row("labels only", "baseline", 4.525, kl_bucket_nats=0.98, kl_exact_nats=1.01, top1_agreement=0.41,
                     **machine),
            make_row("initial student", "initial", 8.51, kl_bucket_nats=5.1, kl_exact_nats=5.2, top1_agreement=0.001,
                     **machine),
        ),
        samples=(
            TextSample(
                "def read(path):\n    ",
                "with open(path) as file:\n        return file.read()\n",
                {"student": "return open(path).read()\n", "labels only": f"self.self = {HOSTILE}\n"},
            ),
        ),
    )  # fmt: skip


def make_history(end_nats: float = 4.2, steps: int = 300, listens: bool = True) -> TrainingHistory:
    """A loss that falls, with noise; `listens` False is a training on labels only."""
    noise = np.random.default_rng(0)
    train, validation, timings = [], [], []
    for step in range(2, steps + 1, 2):
        nats = end_nats + 5 * math.exp(-step / 60) + 0.08 * noise.normal()
        train.append(
            {
                "step": step,
                "kind": "train",
                "loss": nats,
                "ce": nats,
                "kd": nats - 3.4 if listens else None,
                "agreement": 0.42 * (1 - math.exp(-step / 80)) if listens else None,
                "effective_draws": 9 + 0.3 * noise.normal() if listens else None,
                "temperature": 3 - 2 * step / steps,
                "learning_rate": 1e-3 * min(step / 50, 1) * (0.55 + 0.45 * math.cos(math.pi * step / steps)),
                "gradient_norm": (norm := math.exp(0.3 * noise.normal())),
                "gradient_norm_clipped": min(1.0, norm),
                "gradient_norm_attention": 0.6 * norm,
                "gradient_norm_mlp": 0.8 * norm,
                "num_positions": 4096,
                "skipped_steps": 0,
            }
        )
        timings.append({"step": step, "tokens_per_second": 5200.0, "data_wait_share": 0.02, "memory_bytes": 2.1e9})
        if step % 50 == 0:
            against = {"kd": nats - 3.5, "agreement": 0.5 - 0.05 * nats}
            for weights in ("raw", "ema"):
                validation.append({"step": step, "kind": "validation", "weights": weights, "ce": nats} | against)
    return TrainingHistory(tuple(train), tuple(validation), tuple(timings))


def make_cache_facts(sealed: int = 9) -> CacheFacts:
    """Nine shards, the last for validation; the first `sealed` of them sealed."""
    noise = np.random.default_rng(1)
    retained = tuple(
        Retained(
            temperature, a / (a + b), a / (a + b), tuple(np.histogram(noise.beta(a, b, 9999), 100, (0, 1))[0].tolist())
        )
        for temperature, a, b in ((1, 6, 0.6), (2, 2, 6), (3, 1.2, 12))
    )
    shards = tuple(
        ShardFact(
            index=index,
            split="train" if index < 8 else "validation",
            num_sequences=228,
            size_bytes=24_000_000 + 300_000 * index if index < sealed else None,
            num_scored=113_000 if index < sealed else 0,
        )
        for index in range(9)
    )
    return CacheFacts(
        "ab" * 32, RecordLayout(8192, 256, 16), 512, 2052, shards, retained, 2.91, 3.31, ({"torch": "2.13.0"},)
    )


def make_data_report() -> DataReport:
    """With documents left out for three reasons, one of them badly named."""
    return DataReport(
        documents_read=1812,
        documents_kept=1763,
        dropped={
            "empty": Dropped(12, ["a/__init__.py", "b/__init__.py", "c/__init__.py", "d/__init__.py", "e/__init__.py"]),
            "same text as an earlier document": Dropped(36, ["test/x.py", HOSTILE, "deep/" * 24 + "module.py"]),
            "is not UTF-8": Dropped(1, ["test/bad.py"]),
        },
        num_characters=30_111_222,
        num_bytes=30_222_333,
        num_tokens=9_812_345,
        document_tokens={"min": 3, "p25": 812, "median": 2600, "p75": 6100, "p95": 41_000, "max": 180_233},
        train=SplitCounts(1720, 9_600_000, 18_750, 9_590_000),
        validation=SplitCounts(43, 212_345, 415, 211_000),
        padding_share=0.0012,
    )


def make_story(**changes: Any) -> Story:
    """A run that reached its end, compared with a training on labels only."""
    parts: dict[str, Any] = {
        "name": "demo",
        "run_dir": "artifacts/demo",
        "config": {
            "teacher": {"model": "artifacts/demo/teacher"},
            "student": {"model": None, "config": {"model_type": "llama"}},
            "data": {"source": "stdlib", "path": None},
        },
        "config_text": "name: demo\ndata:\n  source: stdlib\n",
        "status": {"stage": "train-student", "state": "complete", "message": ""},
        "cache": make_cache_facts(),
        "data": make_data_report(),
        "training": make_history(),
        "evaluation": make_result(),
        "studies": (real_study(),),
        "study_begun": True,
        "compare": {"labels only": make_history(4.45, listens=False)},
    }
    return Story(**(parts | changes))


def partial_stories() -> dict[str, Story]:
    """Runs that stopped on the way."""
    nothing = {"evaluation": None, "training": None, "compare": {}, "studies": (), "study_begun": False}
    empty = nothing | {"config": {}, "config_text": "", "status": {}, "cache": None, "data": None}
    study = empty | {"study_begun": True}
    paused = {"stage": "cache-teacher", "state": "paused", "message": "paused with 4 of 9 shards sealed: SIGINT"}
    return {
        "empty": make_story(**empty),
        "planned": make_story(cache=make_cache_facts(sealed=0), **nothing),
        "capturing": make_story(cache=make_cache_facts(sealed=4), status=paused, **nothing),
        "cached": make_story(**nothing),
        "just begun": make_story(evaluation=None, compare={}, training=make_history(steps=2)),
        "trained": make_story(evaluation=None),
        "no cache here": make_story(cache=None, data=None),
        "labels only": make_story(training=make_history(listens=False), compare={}),
        "study alone": make_story(**study | {"studies": (real_study(), crowded_study())}),
        "study of one seed": make_story(**study | {"studies": (study_of_one_seed(),)}),
        "study begun": make_story(**study),
        "worse": make_story(evaluation=make_result(student_nats=4.8)),
        "stopped early": make_story(training=replace(make_history(), stopped={"step": 300, "evaluations": 10})),
    }


@functools.cache
def rendered(name: str) -> str:
    """The page of a partial story, or of the "whole" one."""
    return render_page(make_story() if name == "whole" else partial_stories()[name])
