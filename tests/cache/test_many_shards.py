"""A cache of a thousand shards, more than twenty times what a full disk of one session holds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import TeacherCache
from tests.cache.dense import make_cache

MOST_SECONDS = 3.0


@pytest.mark.slow
def test_it_opens_soon_and_gives_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan and every seal checked; in processor time, which other work on the machine does not change."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    _, sequences, _ = make_cache(tmp_path, num_train=1960, num_validation=40)
    began = time.process_time()
    cache = TeacherCache.open(tmp_path)
    seconds = time.process_time() - began
    assert (len(cache.plan.shards), cache.complete) == (1000, True)
    assert seconds < MOST_SECONDS
    found, _ = cache.read(np.array([1999, 0, 1000]))
    assert np.array_equal(found.input_ids, sequences.input_ids[[1999, 0, 1000]])
