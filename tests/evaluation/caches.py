"""A small sealed cache of a tiny teacher, made with the library's own writer from text cut by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipeline.cache import Plan, RecordLayout, TeacherCache
from pipeline.cache.plan import PLAN_NAME, SEQUENCES_NAME, cut_shards
from pipeline.cache.sequence_file import write_sequences
from pipeline.cache.writer import CacheWriter
from pipeline.data.sequences import TRAIN, VALIDATION, Sequences
from pipeline.models import CausalModel, Teacher
from tests import tiny

END_OF_TEXT_ID = 256
NUM_TRAIN, NUM_VALIDATION, LENGTH = 6, 5, 24


def make_sequences() -> Sequences:
    """Rows of T+1 bytes of real text; every row holds two documents and a stretch of padding."""
    text = Path(json.__file__).read_bytes()
    count = NUM_TRAIN + NUM_VALIDATION
    ids = np.full((count, LENGTH + 1), END_OF_TEXT_ID, np.uint32)
    starts = np.zeros((count, LENGTH + 1), bool)
    mask = np.zeros((count, LENGTH), bool)
    for row in range(count):
        first, second = 7 + row % 5, 15 + 2 * (row % 4)  # where the second document and the padding begin
        ids[row, : first - 1] = list(text[100 * row : 100 * row + first - 1])
        ids[row, first : second - 1] = list(text[100 * row + 50 : 100 * row + 50 + second - 1 - first])
        starts[row, [0, first, second]] = True
        mask[row, : first - 1] = True
        mask[row, first : second - 1] = True
    split = np.array([TRAIN] * NUM_TRAIN + [VALIDATION] * NUM_VALIDATION, np.uint8)
    labels_are_text = mask & (ids[:, 1:] != END_OF_TEXT_ID)
    return Sequences(ids, mask, starts, split, labels_are_text.sum(axis=1).astype(np.int64))


def make_cache(
    folder: Path, teacher: CausalModel, head_size: int = 16, seal: int | None = None, precision: str = "fine"
) -> TeacherCache:
    """Plan and shards in `folder`; only the first `seal` shards where that is given."""
    sequences = make_sequences()
    layout = RecordLayout.for_vocabulary(tiny.VOCAB_SIZE, head_size, 4, 0.7, precision)
    digest = write_sequences(folder / SEQUENCES_NAME, sequences)
    plan = Plan(
        identity={"teacher": {"model": "tiny"}},
        layout=layout,
        sequence_length=LENGTH,
        num_sequences=sequences.num_sequences,
        sequences_digest=digest.xxh3_128,
        shards=cut_shards(sequences.split, LENGTH, 3 * LENGTH),
        capture={
            "batch_size": 2,
            "chunk_positions": 16,
            "dtype": "float32",
            "device_class": "cpu",
            "packing": "packed",
        },
    )
    plan.save(folder / PLAN_NAME)
    writer = CacheWriter(folder, plan, sequences, {"torch": "2"})
    scorer = Teacher(teacher, layout, seed=0, batch_size=2, chunk_positions=16)
    for span in plan.shards[:seal]:
        writer.write(span, scorer.score(sequences, np.arange(span.first, span.stop)))
    return TeacherCache.open(folder)
