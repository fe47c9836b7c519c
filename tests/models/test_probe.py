"""The probe: choices follow from sizes, settings win, and an overflow names its cure before there is a plan."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.cache.layout import RecordLayout
from pipeline.cache.settings import CacheSettings
from pipeline.errors import ConfigError, MachineError
from pipeline.models import CausalModel, probe
from pipeline.models.probe import CaptureChoice, chunk_within, grow_batch, halve_until, probe_capture, widest
from tests import tiny
from tests.models.rows import lay_out, random_documents

LAYOUT = RecordLayout.for_vocabulary(tiny.VOCAB_SIZE, 32, 6, 0.7)


def _sequences(sequence_length: int = 24):
    return lay_out([[document] for document in random_documents([20, 24, 9])], sequence_length)


def test_on_cpu_the_choice_follows_from_sizes_alone():
    causal = CausalModel(tiny.make_model(), tiny.VOCAB_SIZE)
    first = probe_capture(causal, _sequences(), LAYOUT, CacheSettings())
    assert first == CaptureChoice(batch_size=4096 // 24, chunk_positions=4096, shard_positions=2**20)
    assert probe_capture(causal, _sequences(), LAYOUT, CacheSettings()) == first


def test_settings_win():
    causal = CausalModel(tiny.make_model().bfloat16(), tiny.VOCAB_SIZE)
    choice = probe_capture(
        causal, _sequences(), LAYOUT, CacheSettings(batch_size=3, chunk_positions=5, shard_positions=700)
    )
    assert choice == CaptureChoice(batch_size=3, chunk_positions=5, shard_positions=700)


@pytest.mark.parametrize(
    ("logits_bytes", "vocab_size", "expected"),
    [(64 * 2**20, 49_152, 256), (64 * 2**20, 151_936, 64), (64 * 2**20, 300, 4096), (4, 10, 1), (80, 10, 2)],
)
def test_a_chunk_is_the_largest_power_of_two_that_fits(logits_bytes, vocab_size, expected):
    assert chunk_within(logits_bytes, vocab_size) == expected


@pytest.mark.parametrize(
    ("wanted", "limit", "expected"),
    [(2**20, 2**20, 2**20), (2**20, 2**20 - 1, 2**19), (7, 2.5, 2), (7, 0.1, 1), (1, 0, 1)],
)
def test_a_shard_is_halved_until_it_fits(wanted, limit, expected):
    assert halve_until(wanted, limit) == expected


@pytest.mark.parametrize(("name", "value"), [("MAX_SHARD_BYTES", 4e6), ("_SHARD_SECONDS", 1e-2)])
def test_a_shard_that_would_be_too_much_to_lose_is_smaller_and_that_is_said(name, value, monkeypatch, capsys):
    monkeypatch.setattr(probe, name, value)
    causal = CausalModel(tiny.make_model(), tiny.VOCAB_SIZE)
    found = probe_capture(causal, _sequences(), LAYOUT, CacheSettings()).shard_positions
    assert found < 2**20
    assert f"{found:,} positions instead of 1,048,576 (cache.shard_positions)" in capsys.readouterr().err
    if name == "_SHARD_SECONDS":
        weights = sum(parameter.numel() for parameter in causal.model.parameters())
        assert 5e10 * value / (4 * weights) < found <= 5e10 * value / (2 * weights)


def test_an_overflow_is_found_before_the_plan_and_names_the_setting():
    causal = CausalModel(tiny.make_model().half(), tiny.VOCAB_SIZE)
    with torch.no_grad():
        causal.model.model.norm.weight.fill_(6e4)
    with pytest.raises(ConfigError, match=r"teacher\.dtype: .*float16 overflows.*Set teacher\.dtype to float32"):
        probe_capture(causal, _sequences(), LAYOUT, CacheSettings())


def test_sequences_beyond_the_models_positions_are_refused():
    causal = CausalModel(tiny.make_model(max_position_embeddings=16), tiny.VOCAB_SIZE)
    with pytest.raises(ConfigError, match=r"data\.sequence_length to 16"):
        probe_capture(causal, _sequences(), LAYOUT, CacheSettings())


def test_sequences_with_nothing_to_score_are_no_trouble():
    sequences = _sequences()
    sequences.loss_mask[:] = np.False_
    causal = CausalModel(tiny.make_model(), tiny.VOCAB_SIZE)
    assert probe_capture(causal, sequences, LAYOUT, CacheSettings()).batch_size > 0


@pytest.mark.parametrize(
    ("limit", "room", "expected"), [(1, 1, 1), (1, 0, 0), (7, 100, 4), (8, 100, 8), (100, 9, 8), (100, 1, 1)]
)
def test_a_batch_doubles_while_it_fits(limit, room, expected):
    assert grow_batch(limit, lambda batch: batch <= room) == expected


# ------------------------------------------------------------------ a card's memory, pretended


def test_the_widest_batch_scores_every_position_of_real_text():
    narrow = lay_out([[document] for document in random_documents([3, 5, 24])])
    found = widest(narrow, 2)
    assert found.input_ids.shape == (2, 25)
    assert found.loss_mask.all()
    real = [*narrow.input_ids[0, :2], *narrow.input_ids[1, :4]]
    assert found.input_ids.ravel().tolist() == (real * 9)[:50]
    assert found.position_ids().tolist() == [[*range(12), *range(12)]] * 2
    assert widest(narrow, 7).input_ids.shape == (7, 25)
    narrow.loss_mask[:] = np.False_
    assert widest(narrow, 1).input_ids.tolist() == [narrow.input_ids[0].tolist()]


def _pretend_memory(monkeypatch: pytest.MonkeyPatch, causal: CausalModel, room_positions: int) -> list[tuple[int, int]]:
    """A card whose memory holds so many positions, and whose allocator refuses twice as many; returns what is asked."""
    shapes: list[tuple[int, int]] = []
    real = CausalModel.hidden

    def hidden(self, ids, positions):
        shapes.append(tuple(ids.shape))
        if ids.numel() > 2 * room_positions:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, ids, positions)

    monkeypatch.setattr(CausalModel, "hidden", hidden)
    card = type("Card", (), {"total_memory": room_positions / 0.75})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some Card")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: int(np.prod(shapes[-1])))
    return shapes


def test_the_batch_is_found_with_full_rows_although_the_first_are_narrow(monkeypatch):
    causal = CausalModel(tiny.make_model(), tiny.VOCAB_SIZE)
    sequences = lay_out([[document] for document in random_documents([3] * 15 + [24])])
    shapes = _pretend_memory(monkeypatch, causal, room_positions=5 * 24)
    assert probe._largest_batch(causal, sequences, LAYOUT, 64) == 4
    assert shapes[:3] == [(1, 24), (2, 24), (4, 24)]
    _pretend_memory(monkeypatch, causal, room_positions=23)
    refused = r"Some Card: its memory does not hold this teacher with one sequence of 24 .*--set cache\.batch_size=1"
    with pytest.raises(MachineError, match=refused):
        probe._largest_batch(causal, sequences, LAYOUT, 64)


def test_a_batch_that_is_set_and_does_not_fit_is_refused_before_the_plan(monkeypatch):
    causal = CausalModel(tiny.make_model(), tiny.VOCAB_SIZE)
    sequences = lay_out([[document] for document in random_documents([3] * 15 + [24])])
    _pretend_memory(monkeypatch, causal, room_positions=2 * 24)
    monkeypatch.setattr(CausalModel, "device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr(probe.Teacher, "_tensor", lambda self, array: torch.from_numpy(np.ascontiguousarray(array)))
    assert probe_capture(causal, sequences, LAYOUT, CacheSettings(batch_size=4)).batch_size == 4
    with pytest.raises(MachineError, match=r"does not hold 8 sequences of 24 positions.*Set cache\.batch_size"):
        probe_capture(causal, sequences, LAYOUT, CacheSettings(batch_size=8))
