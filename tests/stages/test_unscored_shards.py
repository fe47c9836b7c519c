"""A teacher whose logits are not finite somewhere in the text: all that it can score is sealed, and then it is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.cache import TeacherCache
from pipeline.cache.plan import ShardSpan
from pipeline.data.sequences import TRAIN
from pipeline.errors import NumericsError
from pipeline.models.unscored import Unscored
from tests.stages.toys import Toy, make_toy, status, temporaries

STAGE = "cache-teacher"
SMALL = [f"--set=cache.{key}" for key in ("batch_size=1", "shard_positions=256")]
BLIND = float("nan")


def spoil(toy: Toy, tokens: list[int]) -> None:
    """Make every logit after these tokens not finite."""
    path = toy.teacher / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][tokens] = BLIND
    save_file(tensors, path, {"format": "pt"})


@pytest.fixture
def half_blind(tmp_path: Path) -> tuple[Toy, list[int]]:
    """A toy whose teacher cannot score what follows one rare token, and the shards that hold it."""
    toy = make_toy(tmp_path / "toy", tie_word_embeddings=False)
    toy.ran(STAGE, tmp_path / "whole", *SMALL)
    with TeacherCache.open(tmp_path / "whole") as cache:
        ids, shards = cache.sequences.select(slice(None)).input_ids[:, :-1], cache.plan.shards
    holding = {
        int(token): [span.index for span in shards if (ids[span.first : span.stop] == token).any()]
        for token in np.unique(ids[1:])
        if token not in ids[:1]  # which is scored to choose how to run
    }
    probed = set(
        torch.randint(cache.plan.vocab_size, (512,), generator=torch.Generator().manual_seed(0))[:256].tolist()
    )
    token = next(t for t, found in holding.items() if t not in probed and len(found) == 2 and found[1] > found[0] + 1)
    spoil(toy, [token])
    return toy, holding[token]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_all_others_are_sealed_and_a_student_can_learn_from_them(
    workers: str, half_blind: tuple[Toy, list[int]], tmp_path: Path
) -> None:
    toy, missing = half_blind
    for _ in range(2):  # the next start meets it again, and nothing else is left to do
        ended = toy.run(STAGE, tmp_path / "run", *SMALL, "--workers", workers)
        assert ended.code == 1
        assert "logits are not finite at " in ended.stderr
        assert f"shards {missing[0] + 1}, {missing[1] + 1} could not be scored" in ended.stderr.replace("\n", " ")
        assert "--use-sealed-only" in ended.stderr
        assert status(tmp_path / "run")["state"] == "failed"
        assert temporaries(tmp_path / "run") == []
        with TeacherCache.open(tmp_path / "run") as cache:
            assert [span.index for span in cache.missing] == missing
    toy.ran("train-student", tmp_path / "run", *SMALL, "--use-sealed-only")


def test_three_in_a_row_are_no_rare_row() -> None:
    unscored, spans = Unscored(), [ShardSpan(index, index, 1, TRAIN) for index in range(6)]
    for span in spans[:2]:
        unscored.note(span, NumericsError("once"))
    unscored.sealed_one()
    for span in spans[2:4]:
        unscored.note(span, NumericsError("again"))
    with pytest.raises(NumericsError, match=r"^once\n.*shards 1, 2, 3, 4 could not be scored"):
        unscored.refuse()
    with pytest.raises(NumericsError, match=r"^the third$"):
        unscored.note(spans[4], NumericsError("the third"))
    Unscored().refuse()
