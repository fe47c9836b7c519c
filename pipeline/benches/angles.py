"""How far training from the cache points from full distillation: angles between gradients, for one draw set.

Both gradients are by the student's output matrix, summed over N held-out positions, in float64
(`pipeline/benches/gradient_angle.py`). What is random in an objective averages out over positions as 1/√N, what is
biased stays: an angle is to be read with its N. Published, of whole models: 30° for the 300 likeliest renormalised, 4°
for 12 samples (Anshumann et al. 2025, arXiv:2503.16870).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.benches.codec import store
from pipeline.benches.gradient_angle import gradient_angles, without_tail
from pipeline.benches.results import Result, measured
from pipeline.cache import TeacherCache
from pipeline.cache.records import Records
from pipeline.data.sequences import VALIDATION
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.settings import Objective
from pipeline.models import CausalModel

NUM_POSITIONS = 1024
_CHUNK = 64  # [chunk, V] in float64, several times over


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to learn from a cache."""

    name: str
    kind: str
    objective: Objective
    temperatures: tuple[float, ...]
    seen: Callable[[RecordTensors], RecordTensors] = lambda records: records


ARMS = (
    Arm("sampled_tail", "topk", "sampled_tail", (1.0, 2.0)),
    Arm("bucket", "topk", "bucket", (1.0, 2.0)),
    Arm("subset", "topk", "subset", (1.0, 2.0)),
    Arm("renormalised_head", "topk", "bucket", (1.0, 2.0), without_tail),
    Arm("compact", "compact", "sampled_tail", (1.0, 2.0)),
    Arm("sampled", "sampled", "sampled_tail", (1.0,)),
)


@torch.no_grad()
def bench_angles(
    caches: Mapping[str, TeacherCache], teacher: CausalModel, student: CausalModel, num_positions: int = NUM_POSITIONS
) -> list[Result]:
    """Angle and norm ratio of every arm, on records rounded as `fine` rounds them; `caches` hold one text in each kind
    of record."""
    for model in (teacher, student):
        model.model.eval()
    results: list[Result] = []
    assert len({cache.plan.sequences_digest for cache in caches.values()}) == 1, "caches of one text"
    hidden_ND, teacher_NV = None, None
    for kind, cache in caches.items():
        indices = _held_out(cache, num_positions)
        sequences, records = cache.read(indices)
        rows_N = np.flatnonzero(sequences.loss_mask.reshape(-1))[:num_positions]
        scored = _as_trained_from(records, sequences.loss_mask).rows(slice(len(rows_N)))
        if hidden_ND is None or teacher_NV is None:
            places = (sequences.input_ids[:, :-1], sequences.position_ids(slice(None)), rows_N)
            hidden_ND, teacher_ND = _hidden(student, *places), _hidden(teacher, *places)
            teacher_NV = teacher.head.logits_float32(teacher_ND)
            results.append(measured("kd.gradient_positions", len(rows_N), "positions"))
        tensors = RecordTensors.from_records(scored, "cpu")
        labels_N = torch.from_numpy(sequences.input_ids[:, 1:].reshape(-1)[rows_N].astype(np.int64))
        for arm in ARMS:
            if arm.kind == kind:
                results += _measure(arm, hidden_ND, student, labels_N, teacher_NV, tensors)
    return results


def _measure(
    arm: Arm, hidden_ND: Tensor, student: CausalModel, labels_N: Tensor, teacher_NV: Tensor, records: RecordTensors
) -> Iterator[Result]:
    for temperature in arm.temperatures:
        found = gradient_angles(
            hidden_ND, student.head, labels_N, teacher_NV, arm.seen(records), temperature, arm.objective, _CHUNK
        ).weight
        assert found is not None, "the student's head has a matrix"
        suffix = f"{arm.name}.T{temperature:g}"
        yield measured(f"kd.gradient_angle.{suffix}", found.degrees, "degrees")
        yield measured(f"kd.gradient_norm.{suffix}", found.norm_ratio, "of full KD's")


def _held_out(cache: TeacherCache, num_positions: int) -> np.ndarray:
    """The first validation sequences that hold so many scored positions, or all there are."""
    spans = cache.plan.spans(VALIDATION)
    indices = np.concatenate([np.arange(span.first, span.stop) for span in spans])
    scored = np.cumsum(cache.sequences.scored_counts[indices])
    return indices[: int(np.searchsorted(scored, num_positions)) + 1]


def _as_trained_from(records: Records, loss_mask_ST: np.ndarray) -> Records:
    """The scored ones, rounded as `fine` rounds them: the cache of the bench keeps `topk` bit for bit."""
    if records.layout.precision != "lossless":
        return records.rows(loss_mask_ST.reshape(-1))
    return store(Records(replace(records.layout, precision="fine"), *records.fields()), loss_mask_ST).records


def _hidden(model: CausalModel, ids_BT: np.ndarray, positions_BT: np.ndarray, rows_N: np.ndarray) -> Tensor:
    """Hidden states of some positions [N, D], a sequence at a time."""
    parts = [
        model.hidden(
            torch.from_numpy(ids_T[None].astype(np.int64)).to(model.device),
            torch.from_numpy(positions_T[None]).to(model.device),
        )[0]
        for ids_T, positions_T in zip(ids_BT, positions_BT, strict=True)
    ]
    return torch.cat(parts)[torch.from_numpy(rows_N)].float()
