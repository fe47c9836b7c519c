"""How far softened records are from the whole distribution: every kind of row, vocabulary size and precision.

    python -m tests.cache.soften_table                 prints the table; test_soften_sweep.py holds its bounds
    python -m tests.cache.soften_table CACHE TEACHER   of a real teacher's rows, on held-out text of its cache

Records are made by the library's own scoring from float32 logits, go through the codec, and are softened by
`Records.soften` and by `pipeline.distill.loss.softening.soften`; the truth is float64 over all V logits at each
temperature.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.cache import TeacherCache
from pipeline.cache.codec import make_codec
from pipeline.cache.precisions import PRECISIONS
from pipeline.cache.records import RecordLayout, Records
from pipeline.cache.value_law import SPAN_NATS
from pipeline.data.sequences import VALIDATION
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.loss.softening import soften
from pipeline.models import CausalModel
from pipeline.models.draws import uniforms
from pipeline.models.loading import load_model
from pipeline.models.scoring import score

HEAD_SIZE, NUM_DRAWS = 256, 16
ROWS_OF_TEACHER = 512
VOCAB_SIZES = (300, 4096, 49152, 151936, 262144)
TEMPERATURES = tuple(np.linspace(1.0, 4.0, 61).tolist())
ORDINARY = ("random", "zipf", "spike", "masked", "uniform", "whole")  # whole: the head is every id
KINKED = ("kinks", "steps")


@dataclass(frozen=True, slots=True)
class Errors:
    """Largest errors over rows and temperatures."""

    head: float
    """nats, of log p_τ of a head id, less β times what the precision promises of its log p; ids too far below the
    likeliest for a code (`SPAN_NATS`) are left out, unless every bit is stored"""
    log_z: float
    """nats, of logZ(β)"""
    tail_mass: float
    """nats, of A(β), the log tail mass"""
    tail: float
    """nats, of log p_τ(tail) = A(β) − logZ(β)"""
    kl: float
    """nats, KL( true ‖ softened ) over head ids and tail"""
    apart: float
    """nats, between the two soften functions"""

    def beside(self, other: Errors) -> Errors:
        """The larger of each."""
        return Errors(*(max(getattr(self, part.name), getattr(other, part.name)) for part in fields(self)))


def rows_of(kind: str, vocab_size: int) -> NDArray[np.float32]:
    """A few rows of logits of one kind."""
    generator = np.random.default_rng([sum(kind.encode()), vocab_size])
    noise_V = generator.normal(size=vocab_size)
    if kind in ("random", "whole"):
        rows = [spread * generator.normal(size=vocab_size) for spread in (0.5, 1.0, 3.0, 6.0)]
    elif kind == "zipf":  # ids by falling frequency, some of them made likely or unlikely by the context
        falling_V = -np.log(np.arange(1, vocab_size + 1))
        rows = [slope * falling_V + spread * noise_V for slope, spread in ((1.0, 1.0), (1.0, 2.5), (2.0, 1.5))]
    elif kind == "spike":
        rows = [_lifted(2.0 * noise_V, gap) for gap in (20.0, 60.0, 200.0)]
    elif kind == "masked":
        rows = [np.where(np.arange(vocab_size) % 2, spread * noise_V, -1e4) for spread in (1.0, 3.0)]
    elif kind == "uniform":
        rows = [np.zeros(vocab_size)]
    else:
        counts = (1000,) if kind == "kinks" else (1, 10, 100, 300)
        depths = (3.0, 6.0, 10.0, 13.0, 14.0, 15.0, 16.0, 18.0, 20.0, 22.0, 24.0, 26.0, 28.0, 30.0, 31.5, 40.0, 80.0)
        rows = [_two_levels(vocab_size, count, depth) for count in counts for depth in depths]
    return np.stack(rows).astype(np.float32)


def _lifted(logits_V: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    lifted_V = logits_V.copy()
    lifted_V[7] = logits_V.max() + gap
    return lifted_V


def _two_levels(vocab_size: int, count: int, depth: float) -> NDArray[np.float64]:
    """The head just above `count` equal ids of the tail, and all others `depth` nats below: log tail mass bends there,
    which no polynomial follows."""
    row_V = np.full(vocab_size, -depth)
    row_V[:HEAD_SIZE] = 0.01
    row_V[HEAD_SIZE : HEAD_SIZE + min(count, (vocab_size - HEAD_SIZE) // 2)] = 0.0
    return row_V


def record(logits_NV: NDArray[np.float32], precision: str, head_size: int = HEAD_SIZE) -> Records:
    """Records as a cache of that precision gives them back."""
    count, vocab_size = logits_NV.shape
    layout = RecordLayout.for_vocabulary(vocab_size, head_size, NUM_DRAWS, 0.7, precision)
    labels_N = torch.zeros(count, dtype=torch.int64)
    uniforms_NM = torch.from_numpy(uniforms(0, 0, count, layout.num_draws))
    scores = score(torch.from_numpy(logits_NV.copy()), labels_N, uniforms_NM, layout)
    found = [getattr(scores, name).numpy() for name in scores.__slots__]
    records = Records(layout, *(np.ascontiguousarray(a, np.uint32 if a.dtype == np.int64 else a.dtype) for a in found))
    codec = make_codec(layout, count, 2)
    return codec.decode(codec.encode(records, np.ones((1, count), bool))).rows(slice(0, count))


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true of some rows at every temperature, in float64 over all their logits."""

    head_NK: NDArray[np.float64]
    """logits of the head ids"""
    log_sums: dict[float, tuple[NDArray[np.float64], NDArray[np.float64]]]
    """β -> log Σ exp(β·logit) over each row, and over its tail (−inf without one)"""

    @classmethod
    def of(cls, logits_NV: NDArray[np.float32], ids_NK: NDArray[np.uint32], temperatures: Iterable[float]) -> Truth:
        """Of rows of logits whose heads are known, at temperatures of which one is 1.

        Equal logits are summed as one times their number.
        """
        head_NK = np.take_along_axis(logits_NV, ids_NK.astype(np.int64), axis=1).astype(np.float64)
        tails = [
            np.unique(np.delete(row_V, ids_K), return_counts=True)
            for row_V, ids_K in zip(logits_NV, ids_NK, strict=True)
        ]
        log_sums = {}
        for beta in (1.0 / temperature for temperature in temperatures):
            tail_N = np.array([_log_sum(beta * levels.astype(np.float64) + np.log(counts)) for levels, counts in tails])
            log_sums[beta] = np.logaddexp(np.logaddexp.reduce(beta * head_NK, axis=1), tail_N), tail_N
        return cls(head_NK, log_sums)

    def errors(self, records: Records, temperature: float) -> Errors:
        """Of records at one temperature."""
        beta = 1.0 / temperature
        (log_z_N, tail_N), (own_z_N, _) = self.log_sums[beta], self.log_sums[1.0]
        true_NK, true_tail_N = beta * self.head_NK - log_z_N[:, None], tail_N - log_z_N
        allowed_NK = beta * self._promised(records.layout.precision)
        # The likeliest id shows logZ with the fewest roundings: log p_τ = β·log p − logZ.
        best_N1 = self.head_NK.argmax(axis=1)[:, None]
        stored_N = np.take_along_axis(records.logprobs_TK, best_N1, axis=1)[:, 0].astype(np.float64)
        both = [records.soften(temperature), _torch_soften(records, temperature)]
        errors = []
        for head_NK, found_tail_N in both:
            found_z_N = beta * stored_N - np.take_along_axis(head_NK, best_N1, axis=1)[:, 0]
            errors.append(
                Errors(
                    head=float((np.abs(true_NK - head_NK) - allowed_NK).max()),
                    log_z=float(np.abs(found_z_N - (log_z_N - beta * own_z_N)).max()),
                    tail_mass=float(_gaps(records.log_tail_mass(temperature), tail_N - beta * own_z_N).max()),
                    tail=float(_gaps(found_tail_N, true_tail_N).max()),
                    kl=float(_kl(true_NK, true_tail_N, head_NK, found_tail_N).max()),
                    apart=max(float(_gaps(*parts).max()) for parts in zip(*both, strict=True)),
                )
            )
        return errors[0].beside(errors[1])

    def _promised(self, precision: str) -> NDArray[np.float64]:
        """Largest error [N, K] that the precision promises of each stored log p; infinite beyond its span."""
        logp_NK = self.head_NK - self.log_sums[1.0][0][:, None]
        lowest_N1 = logp_NK.max(axis=1, keepdims=True) - SPAN_NATS
        promised_NK = PRECISIONS[precision].error_nats(np.maximum(logp_NK, lowest_N1))
        far_NK = logp_NK < lowest_N1
        return promised_NK if precision == "lossless" else np.where(far_NK, np.inf, promised_NK)


def _log_sum(terms: NDArray[np.float64]) -> float:
    if not terms.size:
        return -np.inf
    return float(terms.max() + np.log(np.exp(terms - terms.max()).sum()))


def _kl(
    true_NK: NDArray[np.float64],
    true_tail_N: NDArray[np.float64],
    head_NK: NDArray[np.floating],
    tail_N: NDArray[np.floating],
) -> NDArray[np.float64]:
    """KL( true ‖ found ) over the head ids and the tail [N]; where there is no tail it adds nothing."""
    real_N = ~np.isneginf(true_tail_N)
    gaps_N = np.where(real_N, true_tail_N, 0.0) - np.where(real_N, tail_N, 0.0)
    kl_N: NDArray[np.float64] = (np.exp(true_NK) * (true_NK - head_NK)).sum(axis=1) + np.exp(true_tail_N) * gaps_N
    return kl_N


def _gaps(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.floating]:
    """|first − second|, where −inf equals −inf and nothing else."""
    same = first == second
    gaps: NDArray[np.floating] = np.abs(np.where(same, 0.0, first) - np.where(same, 0.0, second))
    return gaps


def _torch_soften(records: Records, temperature: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    head_NK, tail_N = soften(RecordTensors.from_records(records, "cpu"), temperature)
    return head_NK.numpy(), tail_N.numpy()


def worst(kind: str, vocab_size: int) -> dict[str, tuple[Errors, float]]:
    """Precision -> largest errors of a kind over all temperatures, and the temperature of the largest of A."""
    return worst_of(rows_of(kind, vocab_size), vocab_size if kind == "whole" else HEAD_SIZE)


def worst_of(logits_NV: NDArray[np.float32], head_size: int = HEAD_SIZE) -> dict[str, tuple[Errors, float]]:
    """The same of any rows."""
    truth, found_of = None, {}
    for precision in PRECISIONS:
        records = record(logits_NV, precision, head_size)
        truth = truth or Truth.of(logits_NV, records.ids_TK, TEMPERATURES)
        found = [truth.errors(records, temperature) for temperature in TEMPERATURES]
        peak = int(np.argmax([errors.tail_mass for errors in found]))
        found_of[precision] = functools.reduce(Errors.beside, found), TEMPERATURES[peak]
    return found_of


def cases() -> list[tuple[str, int]]:
    """Kinds of rows and vocabulary sizes; a head of every id is for vocabularies that a head may hold."""
    return [(kind, size) for size in VOCAB_SIZES for kind in (*ORDINARY, *KINKED) if kind != "whole" or size <= 4096]


def rows_of_teacher(cache_folder: str, teacher: str) -> NDArray[np.float32]:
    """Its logits at scored positions of held-out text, ROWS_OF_TEACHER of them, evenly spread."""
    with TeacherCache.open(cache_folder) as cache:
        chosen = [span.first for span in cache.plan.spans(VALIDATION)]
        sequences, vocab_size = cache.sequences.select(np.array(chosen)), cache.plan.vocab_size
    model = load_model(teacher, None, torch.float32, torch.device("cpu"), False)
    causal = CausalModel(model, vocab_size)
    ids_BT = torch.from_numpy(sequences.input_ids[:, :-1].astype(np.int64))
    with torch.no_grad():
        hidden_ND = causal.hidden(ids_BT, torch.from_numpy(sequences.position_ids()))[
            torch.from_numpy(sequences.loss_mask)
        ]
        rows_N = torch.linspace(0, len(hidden_ND) - 1, ROWS_OF_TEACHER).long()
        return causal.head.logits_float32(hidden_ND[rows_N]).numpy()


def main() -> None:
    """Print the table as Markdown."""
    names = [part.name for part in fields(Errors)]
    print("| V | rows | precision | " + " | ".join(names) + " | τ of tail_mass |")
    print("| --- " * (len(names) + 4) + "|")
    if sys.argv[1:]:
        logits_NV = rows_of_teacher(*sys.argv[1:])
        tables = iter([("of a teacher", logits_NV.shape[1], worst_of(logits_NV))])
    else:
        tables = ((kind, vocab_size, worst(kind, vocab_size)) for kind, vocab_size in cases())
    for kind, vocab_size, found in tables:
        for precision, (errors, temperature) in found.items():
            figures = " | ".join(f"{getattr(errors, name):.1e}" for name in names)
            print(f"| {vocab_size:,} | {kind} | {precision} | {figures} | {temperature:.2f} |", flush=True)


if __name__ == "__main__":
    main()
