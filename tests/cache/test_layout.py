"""What a record holds, as JSON and as rules: of every kind."""

from __future__ import annotations

import json

import pytest

from pipeline.cache.layout import RecordLayout
from pipeline.cache.settings import BETAS

TOPK = RecordLayout.for_vocabulary(49152, 256, 16, 0.7)
COMPACT = RecordLayout.for_vocabulary(49152, 64, 16, 0.7, "small", "compact", 0.8)
SAMPLED = RecordLayout.for_vocabulary(49152, 256, 50, 0.7, kind="sampled")


@pytest.mark.parametrize("layout", [TOPK, COMPACT, SAMPLED], ids=lambda layout: layout.kind)
def test_layout_survives_json(layout: RecordLayout) -> None:
    assert RecordLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


def test_plans_of_topk_caches_keep_their_hash() -> None:
    """What the kinds added must not stand in the JSON of a kind that was there before."""
    assert TOPK.to_json() == {
        "vocab_size": 49152,
        "head_size": 256,
        "num_draws": 16,
        "betas": list(BETAS),
        "draw_beta": 0.7,
        "kind": "topk",
        "precision": "fine",
    }


@pytest.mark.parametrize("head_size", [10, 11, 256])
def test_head_as_wide_as_the_vocabulary_has_no_draws(head_size: int) -> None:
    layout = RecordLayout.for_vocabulary(10, head_size, 16, 0.7)
    assert (layout.head_size, layout.num_draws) == (10, 0)


def test_what_the_kinds_keep() -> None:
    assert (COMPACT.head_size, COMPACT.num_tail_draws, COMPACT.temperatures) == (64, 16, (1.0, 4.0))
    assert RecordLayout.for_vocabulary(30, 64, 16, 0.7, kind="compact").head_size == 29  # a tail is always left
    assert (SAMPLED.head_size, SAMPLED.num_draws, SAMPLED.num_tail_draws) == (50, 50, 0)
    assert (SAMPLED.betas, SAMPLED.draw_beta, SAMPLED.temperatures) == ((1.0,), 1.0, (1.0, 1.0))
    assert RecordLayout.for_vocabulary(30, 256, 50, 0.7, kind="sampled").head_size == 30
    assert [layout.ragged for layout in (TOPK, COMPACT, SAMPLED)] == [False, True, True]


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        (RecordLayout(10, 4, 2), {"head_size": 11}, "head_size must be in"),
        (RecordLayout(10, 4, 2), {"head_size": 0}, "head_size must be in"),
        (RecordLayout(10, 4, 2), {"num_draws": -1}, "num_draws"),
        (RecordLayout(10, 4, 2), {"num_draws": 10**30}, "num_draws must be in 0..1048576"),
        (RecordLayout(10, 4, 2), {"head_size": 10}, "0 without a tail"),
        (RecordLayout(10, 4, 2), {"draw_beta": 0.8}, "draw_beta must be one of"),
        (RecordLayout(10, 4, 2), {"betas": [0.5, 0.25, 1.0]}, "betas must ascend"),
        (RecordLayout(10, 4, 2), {"betas": []}, "betas must ascend"),
        (RecordLayout(10, 4, 2), {"kind": "bottomk"}, "kind must be one of"),
        (RecordLayout(10, 4, 2), {"precision": "exact"}, "precision must be one of"),
        (RecordLayout(10, 4, 2), {"kind": "sampled"}, "of sampled"),
        (RecordLayout(10, 4, 2), {"kind": "compact"}, "expected the fields"),
        (RecordLayout(10, 4, 2), {"head_mass": 0.9}, "expected the fields"),
        (RecordLayout(10, 4, 2), {"vocab_size": 10.0}, "must be integers"),
        (RecordLayout(10, 4, 2), {"betas": ["a", 1.0]}, "must be numbers"),
        (RecordLayout(10, 4, 2), {"more": 1}, "expected the fields"),
        (COMPACT, {"head_mass": 1.0}, "head_mass must be in"),
        (COMPACT, {"head_mass": "most"}, "must be numbers"),
        (COMPACT, {"head_size": 256}, "at most 255"),
        (COMPACT, {"vocab_size": 64}, "must leave a tail"),
        (SAMPLED, {"num_draws": 0}, "num_draws of sampled must be at least 1"),
        (SAMPLED, {"head_size": 40}, "the smaller of num_draws and vocab_size"),
        (SAMPLED, {"betas": list(BETAS)}, "knows beta 1 alone"),
        (SAMPLED, {"precision": "small"}, "precision must be 'fine'"),
    ],
)
def test_bad_layouts_are_refused(layout: RecordLayout, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecordLayout.from_json(layout.to_json() | change)
