"""The running average of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.distill.batching.batches import load_batch
from pipeline.distill.learner import Learner
from pipeline.distill.optimization.ema import WeightAverage
from pipeline.distill.settings import TrainSettings
from pipeline.errors import IdentityError
from pipeline.models import CausalModel
from tests import tiny
from tests.evaluation.caches import make_cache


class Tied(nn.Module):
    """Two parameters under three names."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.arange(6.0, dtype=dtype).reshape(3, 2))
        self.scale = nn.Parameter(torch.tensor([0.5], dtype=dtype))
        self.output = self.embedding


def train_a_little(model: Tied, step: int) -> None:
    with torch.no_grad():
        model.embedding.add_(0.3 * (step + 1))
        model.scale.mul_(-1.1)


def test_follows_the_recurrence_with_a_warmed_up_decay() -> None:
    model = Tied()
    average = WeightAverage(model, decay=0.3)
    expected = model.embedding.detach().numpy().astype(np.float64)
    for step in range(6):
        train_a_little(model, step)
        average.update(model, step)
        decay = min(0.3, (1 + step) / (10 + step))
        assert average.decay_at(step) == decay
        expected = decay * expected + (1 - decay) * model.embedding.detach().numpy()
    state = average.state_dict()
    assert set(state) == {"embedding", "scale"}
    np.testing.assert_allclose(state["embedding"].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swapped_in_and_back_bit_for_bit(dtype: torch.dtype) -> None:
    model = Tied(dtype)
    average = WeightAverage(model, decay=0.9)
    train_a_little(model, 0)
    average.update(model, 0)
    held, own = model.output, model.embedding.detach().clone()

    def fail_inside() -> None:
        with average.swapped_into(model):
            assert torch.equal(held.detach(), average.state_dict()["embedding"].to(dtype))
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert held is model.embedding
    assert torch.equal(model.embedding.detach(), own)
    assert all(value.dtype == torch.float32 for value in average.state_dict().values())


def test_goes_on_from_saved_averages_as_if_never_stopped() -> None:
    model = Tied()
    straight = WeightAverage(model, decay=0.999)
    for step in range(4):
        if step == 2:
            resumed = WeightAverage(Tied(), decay=0.999)
            resumed.load_state_dict({name: value.clone() for name, value in straight.state_dict().items()})
        train_a_little(model, step)
        straight.update(model, step)
        if step >= 2:
            resumed.update(model, step)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_refuses_the_averages_of_another_model() -> None:
    average = WeightAverage(Tied(), decay=0.9)
    with pytest.raises(
        IdentityError, match=r"2 of 2 parameters differ.*embedding: expected shape \(3, 2\), found None"
    ):
        average.load_state_dict({"scale": torch.zeros(2)})


def test_a_learner_takes_in_its_weights_after_every_step(tmp_path: Path) -> None:
    cache = make_cache(tmp_path, CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE))
    batch = load_batch(cache, np.array([0, 1]), torch.device("cpu"), with_records=True)
    settings = TrainSettings(steps=4, warmup_steps=0, ema_decay=0.9)
    learner = Learner(CausalModel(tiny.make_model("llama", seed=1), tiny.VOCAB_SIZE), settings, 4, torch.float32)
    expected = {name: weight.double() for name, weight in learner.weights().items()}
    for step, decay in enumerate((1 / 10, 2 / 11, 3 / 12)):
        learner.learn(step, [batch], batch.num_scored)
        expected = {name: decay * expected[name] + (1 - decay) * learner.weights()[name] for name in expected}
    for name, average in learner.tensors()["average"].items():
        torch.testing.assert_close(average.double(), expected[name], rtol=0, atol=1e-6)
