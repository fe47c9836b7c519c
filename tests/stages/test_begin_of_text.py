"""A teacher whose tokenizer puts a begin-of-text id before every text, from its text to its student."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipeline.cache import TeacherCache
from tests.data import builders
from tests.stages.toys import Toy, make_toy, tree

BEGIN = 259


def beginning_toy(folder: Path) -> Toy:
    """The toy, with such a tokenizer."""
    toy = make_toy(folder, vocab_size=BEGIN + 1)
    builders.save(builders.byte_level(begin=True), toy.teacher, builders.PLAIN_TEMPLATE, bos_token="<s>")
    return toy


def test_it_is_captured_trained_from_and_evaluated(tmp_path: Path) -> None:
    toy, run_dir = beginning_toy(tmp_path / "toy"), tmp_path / "run"
    toy.ran("cache-teacher", run_dir)
    with TeacherCache.open(run_dir) as cache:
        sequences = cache.sequences.select(slice(None))
        _, records = cache.read(np.arange(len(cache)))
    assert (sequences.input_ids[:, 0] == BEGIN).all()
    continued = ~sequences.document_starts[:, 1]
    assert continued.any()
    assert not sequences.loss_mask[continued, 0].any(), "what follows was learned at the end of the row before"
    assert np.isfinite(records.label_logprobs_T[sequences.loss_mask.reshape(-1)]).all()

    toy.ran("train-student", run_dir, "--set", "train.steps=4")
    toy.ran("eval", run_dir, "--set", "train.steps=4")
    config = json.loads((run_dir / "student" / "model" / "config.json").read_text())
    assert config["bos_token_id"] == BEGIN, "as its tokenizer has it"
    assert (run_dir / "eval" / "eval.json").is_file()


def test_its_lost_sequences_are_packed_again(tmp_path: Path) -> None:
    toy, run_dir = beginning_toy(tmp_path / "toy"), tmp_path / "run"
    toy.ran("cache-teacher", run_dir)
    before = tree(run_dir / "cache")
    (run_dir / "cache" / "sequences.shard").unlink()
    toy.ran("cache-teacher", run_dir)
    assert tree(run_dir / "cache") == before
