"""No document shows in the records of another, for every architecture, through the real stage."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import TeacherCache
from tests import tiny
from tests.stages.toys import Toy, make_toy

LENGTHS = (37, 45)  # bytes; one row of 96 positions holds both documents with their end-of-text ids


def cache_two_documents(toy: Toy, run_dir: Path, first: str, second: str) -> None:
    """Cache a training document of each text, and one of each to validate on, one row each."""
    texts = run_dir.with_name(run_dir.name + "-texts")
    texts.mkdir()
    # Keys and lengths stay, so split, order and packing do too.
    for index in range(6):
        (texts / f"a{index}.txt").write_text(f"{index}{first}")
        (texts / f"b{index}.txt").write_text(f"{index}{second}")
    options = ["--set", f"data.path={texts}", "--set", "data.sequence_length=96", "--set", "cache.batch_size=2"]
    toy.ran("cache-teacher", run_dir, *options)


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_changing_a_document_moves_no_record_of_another(architecture: str, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy", architecture)
    kept = "the text that stays as it was, whatever comes"
    before, after = tmp_path / "before", tmp_path / "after"
    cache_two_documents(toy, before, "def first(x): return x", kept)
    cache_two_documents(toy, after, "class Other_: pass # x", kept)

    with TeacherCache.open(before) as one, TeacherCache.open(after) as two:
        packed = architecture != "opt"
        assert one.plan.capture["packing"] == two.plan.capture["packing"] == ("packed" if packed else "one_document")
        changed = unchanged = 0
        for index in range(len(one)):
            a, b = one[index], two[index]
            np.testing.assert_array_equal(a.document_starts, b.document_starts)
            bounds = [*np.flatnonzero(a.document_starts).tolist(), 97]
            if not packed:
                assert int(a.loss_mask_T.sum()) <= bounds[1], "a row of its own for each document"
            for begin, end in itertools.pairwise(bounds):
                rows = slice(begin, min(end, 96))
                scored = a.loss_mask_T[rows]
                same_text = np.array_equal(a.input_ids[begin:end], b.input_ids[begin:end])
                same_records = all(
                    np.array_equal(
                        getattr(a.records.rows(rows), name)[scored], getattr(b.records.rows(rows), name)[scored]
                    )
                    for name in ("ids_TK", "logprobs_TK", "tail_TR", "label_logprobs_T", "entropies_T")
                )
                if scored.any():
                    changed += not same_text
                    unchanged += same_text
                    assert same_records == same_text
        assert changed > 0
        assert unchanged > 0
