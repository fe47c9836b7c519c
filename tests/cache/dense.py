"""Records by the dense route: float64 over the whole vocabulary, from the formulae. And caches made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.codec import RecordCodec
from pipeline.cache.layout import RecordLayout
from pipeline.cache.plan import PLAN_NAME, SEQUENCES_NAME, Plan, cut_shards
from pipeline.cache.records import PADDING_ID, Records
from pipeline.cache.roots import find_sealed
from pipeline.cache.schema import Arrays
from pipeline.cache.sequence_file import write_sequences
from pipeline.cache.writer import CacheWriter
from pipeline.data.sequences import TRAIN, VALIDATION, Sequences

ENVIRONMENT = {"device": "cpu", "numpy": "any"}


def log_softmax(logits_NV: NDArray[np.float64], beta: float = 1.0) -> NDArray[np.float64]:
    """Log-probabilities at temperature 1/β."""
    scaled_NV = beta * logits_NV.astype(np.float64)
    scaled_NV = scaled_NV - scaled_NV.max(axis=1, keepdims=True)
    logp_NV: NDArray[np.float64] = scaled_NV - np.log(np.exp(scaled_NV).sum(axis=1, keepdims=True))
    return logp_NV


def log_sum(values_NV: NDArray[np.float64], keep_NV: NDArray[np.bool_]) -> NDArray[np.float64]:
    """log Σ exp over the kept entries of each row; −inf where none is kept."""
    kept_NV = np.where(keep_NV, values_NV, -np.inf)
    highest_N = kept_NV.max(axis=1)
    highest_N[np.isneginf(highest_N)] = 0.0
    with np.errstate(divide="ignore"):
        total_N: NDArray[np.float64] = highest_N + np.log(np.exp(kept_NV - highest_N[:, None]).sum(axis=1))
    return total_N


def tail_mask(layout: RecordLayout, logits_NV: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which ids are outside the head; of equal logits the lowest id comes first."""
    order_NV = np.argsort(-logits_NV, axis=1, kind="stable")
    mask_NV = np.ones(logits_NV.shape, bool)
    np.put_along_axis(mask_NV, order_NV[:, : layout.head_size], False, axis=1)
    if layout.kind == "compact":
        p_NV = np.take_along_axis(np.exp(log_softmax(logits_NV)), order_NV, axis=1)
        enough_NV = np.cumsum(p_NV, axis=1) - p_NV >= layout.head_mass
        beyond_NV = np.zeros(logits_NV.shape, bool)
        np.put_along_axis(beyond_NV, order_NV, enough_NV, axis=1)
        mask_NV |= beyond_NV
    return mask_NV


def records_of(layout: RecordLayout, logits_NV: NDArray[np.float64], seed: int = 0) -> Records:
    """What a perfect teacher would record of these logits; labels are id 0, draws follow p^draw_beta."""
    generator = np.random.default_rng(seed)
    if layout.kind == "sampled":
        return _sampled(layout, log_softmax(logits_NV), generator)
    logp_NV, tail_NV = log_softmax(logits_NV), tail_mask(layout, logits_NV)
    rows = np.arange(len(logits_NV))[:, None]
    ids_NK, logp_NK = _padded(layout, logp_NV, ~tail_NV)
    draw_ids_NM = np.zeros((len(logits_NV), layout.num_draws), np.int64)
    for row in range(len(logits_NV) if layout.num_draws else 0):
        tail_V = np.where(tail_NV[row], layout.draw_beta * logp_NV[row], -np.inf)
        weight_V = np.exp(tail_V - tail_V.max())
        draw_ids_NM[row] = generator.choice(layout.vocab_size, layout.num_draws, p=weight_V / weight_V.sum())
    return Records(
        layout,
        ids_NK,
        logp_NK,
        np.stack([log_sum(beta * logp_NV, tail_NV) for beta in layout.betas], axis=1).astype(np.float32),
        draw_ids_NM.astype(np.uint32),
        logp_NV[rows, draw_ids_NM].astype(np.float32),
        logp_NV[:, 0].astype(np.float32),
        -(np.exp(logp_NV) * logp_NV).sum(axis=1).astype(np.float32),
    )


def _padded(
    layout: RecordLayout, logp_NV: NDArray[np.float64], head_NV: NDArray[np.bool_]
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Ids of each row's head, ascending, and their log p; filled up with padding."""
    ids_NK = np.full((len(logp_NV), layout.head_size), PADDING_ID, np.uint32)
    logp_NK = np.full(ids_NK.shape, -np.inf, np.float32)
    for row, head_V in enumerate(head_NV):
        ids = np.flatnonzero(head_V)
        ids_NK[row, : len(ids)], logp_NK[row, : len(ids)] = ids, logp_NV[row, ids]
    return ids_NK, logp_NK


def _sampled(layout: RecordLayout, logp_NV: NDArray[np.float64], generator: np.random.Generator) -> Records:
    p_NV = np.exp(logp_NV)
    rows = [generator.multinomial(layout.num_draws, p_V / p_V.sum()) for p_V in p_NV]
    counts_NV = np.array(rows, np.int64).reshape(p_NV.shape)
    with np.errstate(divide="ignore"):
        shares_NV = np.log(counts_NV / layout.num_draws)
    nothing_N0 = np.zeros((len(logp_NV), 0), np.float32)
    return Records(
        layout,
        *_padded(layout, shares_NV, counts_NV > 0),
        np.full((len(logp_NV), layout.num_betas), -np.inf, np.float32),
        nothing_N0.astype(np.uint32),
        nothing_N0,
        logp_NV[:, 0].astype(np.float32),
        -(p_NV * logp_NV).sum(axis=1).astype(np.float32),
    )


def logits_of(num_positions: int, vocab_size: int, seed: int = 0, spread: float = 3.0) -> NDArray[np.float64]:
    """Logits that fall off as word frequencies do, with noise."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(num_positions, vocab_size)) * spread - np.log(np.arange(1, vocab_size + 1))


def random_mask(num_sequences: int, sequence_length: int, seed: int) -> NDArray[np.bool_]:
    """A loss mask [S, T] that scores some 20 positions of each sequence."""
    return np.random.default_rng(seed).random((num_sequences, sequence_length)) < min(0.7, 20 / sequence_length)


def with_blanks(scored: Records, mask_ST: NDArray[np.bool_]) -> Records:
    """Records of all positions, from those of the scored ones."""
    records = Records.blank(scored.layout, mask_ST.size)
    for whole, part in zip(records.fields(), scored.fields(), strict=True):
        whole[mask_ST.reshape(-1)] = part
    return records


def encoded(codec: RecordCodec, records: Records, mask_ST: NDArray[np.bool_]) -> Arrays:
    """The codec's arrays, which have the dtypes and shapes of its schema."""
    arrays = codec.encode(records, mask_ST)
    for array in codec.schema(len(mask_ST)):
        assert (arrays[array.name].dtype, arrays[array.name].shape) == (np.dtype(array.dtype), array.shape)
    return arrays


def scored_alone(everything: Records, mask_ST: NDArray[np.bool_]) -> Records:
    """The scored of decoded records; all others, and those that fill up the last chunk, are blank."""
    scored = np.zeros(len(everything), bool)
    scored[: mask_ST.size] = mask_ST.reshape(-1)
    blank = Records.blank(everything.layout, int((~scored).sum()))
    for found, expected in zip(everything.rows(~scored).fields(), blank.fields(), strict=True):
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)
    return everything.rows(scored)


def one_by_hand(layout: RecordLayout) -> Records:
    """One record of three head ids and two draws, in numbers easy to follow."""
    return Records(
        layout,
        np.array([[5, 7, 900]], np.uint32),
        np.array([[-0.5, -1.0, -2.51]], np.float32),
        np.array([[1.0, 0.5, 0.25, -1.0, -2.0, -3.0]], np.float32),
        np.array([[800, 10]], np.uint32),
        np.array([[-9.0, -4.0]], np.float32),
        np.array([-1.5], np.float32),
        np.array([0.25], np.float32),
    )


def make_sequences(
    num_train: int, num_validation: int, sequence_length: int, vocab_size: int, seed: int = 0
) -> Sequences:
    """Random ids with a few documents and a few masked positions in each row; the first row is masked as a whole."""
    generator = np.random.default_rng(seed)
    count = num_train + num_validation
    starts = generator.random((count, sequence_length + 1)) < 0.1
    starts[:, 0] = True
    mask = generator.random((count, sequence_length)) < 0.8
    mask[0] = False
    return Sequences(
        input_ids=generator.integers(0, vocab_size, (count, sequence_length + 1)).astype(np.uint32),
        loss_mask=mask,
        document_starts=starts,
        split=np.array([TRAIN] * num_train + [VALIDATION] * num_validation, np.uint8),
        num_bytes=generator.integers(0, 1000, count),
    )


def make_plan(
    folder: Path, sequences: Sequences, layout: RecordLayout, shard_positions: int = 32, seed: int = 0
) -> Plan:
    """Sequences and plan in a cache folder, as cache-teacher leaves them before the first shard."""
    digest = write_sequences(folder / SEQUENCES_NAME, sequences)
    plan = Plan(
        identity={"teacher": {"model": "dense", "seed": seed}, "source": {"files": 1}},
        layout=layout,
        sequence_length=sequences.sequence_length,
        num_sequences=sequences.num_sequences,
        sequences_digest=digest.xxh3_128,
        shards=cut_shards(sequences.split, sequences.sequence_length, shard_positions),
        capture={"batch_size": 2, "chunk_positions": 8, "dtype": "float32", "device_class": "cpu", "packing": "packed"},
    )
    plan.save(folder / PLAN_NAME)
    return plan


def make_cache(
    folder: Path, num_train: int = 5, num_validation: int = 2, seed: int = 0
) -> tuple[Plan, Sequences, Records]:
    """A whole sealed cache of 16 positions a sequence and two sequences a shard, with what went into it."""
    layout = RecordLayout.for_vocabulary(50, 8, 3, 0.7)
    sequences = make_sequences(num_train, num_validation, 16, layout.vocab_size, seed)
    records = records_of(layout, logits_of(sequences.num_sequences * 16, layout.vocab_size, seed), seed)
    plan = make_plan(folder, sequences, layout, seed=seed)
    write_shards(folder, plan, sequences, records)
    return plan, sequences, records


def write_shards(folder: Path, plan: Plan, sequences: Sequences, records: Records) -> None:
    """Seal everything that is missing in a folder."""
    writer = CacheWriter(folder, plan, sequences, ENVIRONMENT)
    sealed = find_sealed(plan, [folder])
    for span in [span for span in plan.shards if span.index not in sealed]:
        writer.write(span, records.rows(slice(span.first * plan.sequence_length, span.stop * plan.sequence_length)))
