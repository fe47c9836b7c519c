"""The account of one model's memory on a card that others use too; the card is played."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.evaluation.measures import held_out_indices, measure_model
from pipeline.evaluation.memory import Card, MemoryMeter, card_of, weights_bytes
from pipeline.models import CausalModel
from tests import tiny
from tests.evaluation.caches import make_cache


class PlayedCard:
    """A card on which memory is taken and given back by hand."""

    def __init__(self, resident: int) -> None:
        self.now = self.most = resident

    def take(self, num_bytes: int) -> None:
        self.now += num_bytes
        self.most = max(self.most, self.now)

    def forget(self) -> None:
        self.most = self.now

    def account(self) -> Card:
        return Card(allocated=lambda: self.now, peak=lambda: self.most, forget_peak=self.forget)


def test_weights_count_once_however_often_they_are_named() -> None:
    model = nn.ModuleList([nn.Linear(4, 8, bias=False), nn.Linear(4, 8), nn.BatchNorm1d(8)])
    model[1].weight = model[0].weight
    assert weights_bytes(model) == 4 * (4 * 8 + 8) + 4 * (4 * 8) + 8


def test_what_others_hold_and_do_is_not_the_models() -> None:
    model = nn.Linear(100, 10, bias=False)  # 4,000 bytes
    card = PlayedCard(resident=1_000_000 + 4_000)  # a teacher lies there too
    meter = MemoryMeter(model, card.account())
    for activations, buffers in ((500, 90_000), (700, 50_000), (600, 80_000)):
        with meter.own_pass():
            card.take(activations)
            card.take(-activations)
            card.take(40)  # hidden states that the exact KL reads later
        card.take(buffers)  # of the exact KL
        card.take(-buffers - 40)
    assert meter.peak_bytes == 4_000 + 700


def test_measuring_reads_the_peak_around_the_models_own_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = CausalModel(tiny.make_model("llama", seed=1), tiny.VOCAB_SIZE)
    student = CausalModel(tiny.make_model("gpt2", seed=2), tiny.VOCAB_SIZE)
    cache = make_cache(tmp_path, teacher)
    card = PlayedCard(weights_bytes(teacher.model) + weights_bytes(student.model))
    hidden = CausalModel.hidden

    def hidden_and_memory(self: CausalModel, *inputs: torch.Tensor) -> torch.Tensor:
        num_bytes = 5_000 if self is student else 9_000_000
        card.take(num_bytes)
        card.take(-num_bytes)
        return hidden(self, *inputs)

    monkeypatch.setattr(CausalModel, "hidden", hidden_and_memory)
    found = measure_model(student, cache, held_out_indices(cache), 2, teacher, card=card.account())
    assert (found.memory_kind, found.peak_memory_bytes) == ("gpu", weights_bytes(student.model) + 5_000)
    assert found.kl_exact_nats is not None


def test_a_cpu_has_no_card() -> None:
    assert card_of(torch.device("cpu")) is None
