"""How difficult the teacher found each sequence: known before training, measured once a shard and kept in the run.

    entropy    d_s = 1/n_s · Σ_t H(p_t)             the teacher's own uncertainty, whatever came
    surprise   d_s = 1/n_s · Σ_t −log p_t(label)    what the text was to it

over the n_s scored positions of sequence s, in nats; 0 where none is scored. Sums are exact (`math.fsum`) and their
terms are what the cache stores, so that every machine finds the same numbers.

Measuring reads two columns of every record and decodes nothing else. Both measures are kept together, one small JSON
file a shard, with the hash of the plan; a later start reads those. They are derived: a file that is damaged or of
another plan is made again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import files
from pipeline.cache import TeacherCache
from pipeline.cache.plan import ShardSpan
from pipeline.console import Progress, warn_once
from pipeline.distill.settings import Difficulty
from pipeline.errors import DamagedDataError
from pipeline.pause import PauseRequest

FORMAT = 1
_MEASURES: tuple[Difficulty, ...] = ("entropy", "surprise")


def difficulties(
    cache: TeacherCache, spans: Sequence[ShardSpan], measure: Difficulty, folder: Path, pause: PauseRequest
) -> NDArray[np.float64]:
    """Nats a sequence, of the sequences of `spans` one after another; what is not in `folder` yet is measured now.

    PausedError between two shards where a pause is due; what was measured by then is kept.
    """
    found = {span.index: _kept(folder, cache, span) for span in spans}
    missing = [span for span in spans if found[span.index] is None]
    if missing:
        total = sum(span.count for span in spans) * cache.plan.sequence_length
        done = total - sum(span.count for span in missing) * cache.plan.sequence_length
        with Progress("measuring difficulty", total, "tokens", done) as progress:
            for number, span in enumerate(missing):
                if number:  # after one shard, so that every start gets on
                    pause.check()
                found[span.index] = measured = measure_shard(cache, span)
                files.write_json(_path(folder, span), _content(cache, span, measured))
                progress.advance(span.count * cache.plan.sequence_length)
    kept = [nats[measure] for span in spans if (nats := found[span.index]) is not None]
    return np.concatenate(kept)


def measure_shard(cache: TeacherCache, span: ShardSpan) -> dict[str, NDArray[np.float64]]:
    """Both measures of every sequence of a sealed shard [count]."""
    label_ST, entropy_ST = cache.facts(span)
    mask_ST = cache.sequences.select(slice(span.first, span.stop)).loss_mask
    facts = {"entropy": entropy_ST, "surprise": -label_ST}
    return {name: np.array([*map(_mean, values_ST, mask_ST)]) for name, values_ST in facts.items()}


def _mean(values_T: NDArray[np.float32], mask_T: NDArray[np.bool_]) -> float:
    scored = values_T[mask_T].tolist()
    return max(0.0, math.fsum(scored) / len(scored)) if scored else 0.0


def _path(folder: Path, span: ShardSpan) -> Path:
    return folder / f"{span.index:05d}.json"


def _content(cache: TeacherCache, span: ShardSpan, nats: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    content: dict[str, Any] = _identity(cache, span) | {measure: nats[measure].tolist() for measure in _MEASURES}
    return content | {"digest": files.digest_json(content)}


def _identity(cache: TeacherCache, span: ShardSpan) -> dict[str, Any]:
    return {"format": FORMAT, "plan_hash": cache.plan.hash, "first": span.first, "count": span.count}


def _kept(folder: Path, cache: TeacherCache, span: ShardSpan) -> dict[str, NDArray[np.float64]] | None:
    """What an earlier start left of a shard; None where there is nothing that can be used."""
    path = _path(folder, span)
    if not path.is_file():
        return None
    try:
        content = files.read_json(path)
    except (DamagedDataError, OSError) as error:
        warn_once(f"difficulty is measured again: {error}")
        return None
    digest = content.pop("digest", None)
    expected = _identity(cache, span)
    if digest != files.digest_json(content) or {key: content.get(key) for key in expected} != expected:
        warn_once(f"difficulty is measured again: {path} is damaged, or of another plan")
        return None
    return {measure: np.array(content[measure], np.float64) for measure in _MEASURES}
