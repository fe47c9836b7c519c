"""What a shard is expected to take, held against real shards of every kind."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from pipeline import output_limit
from pipeline.cache import Plan, TeacherCache
from pipeline.cache.sequence_file import StoredSequences
from pipeline.cache.settings import CacheSettings
from pipeline.cache.writer import CacheWriter
from pipeline.data.settings import DataSettings
from pipeline.errors import ConfigError, NumericsError
from pipeline.models import Teacher
from pipeline.models.planning import plan_capture
from pipeline.models.settings import TeacherSettings
from pipeline.models.shard_room import ShardRoom
from pipeline.output_limit import OutputLimit, folder_bytes
from pipeline.pause import NoRoomError, PausedError, PauseRequest

KINDS: dict[str, dict[str, Any]] = {
    "topk": {"head_size": 16, "num_draws": 4},
    "compact": {"kind": "compact", "head_size": 16, "num_draws": 4},
    "sampled": {"kind": "sampled", "num_draws": 8},
}
Planned = tuple[Plan, StoredSequences, Teacher]


@pytest.fixture(scope="module", params=KINDS)
def captured(
    request: pytest.FixtureRequest, llama_folder: Path, texts_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Planned]:
    """A sealed cache of a kind, and what made it."""
    folder = tmp_path_factory.mktemp("cache")
    data = DataSettings(source="text", path=str(texts_folder), sequence_length=32, validation_fraction=0.2)
    cache = CacheSettings(batch_size=8, shard_positions=1200, **KINDS[request.param])
    plan, sequences, teacher = plan_capture(
        folder, data, TeacherSettings(model=str(llama_folder)), cache, PauseRequest()
    )
    writer = CacheWriter(folder, plan, sequences, {})
    for span in plan.shards:
        writer.write(span, teacher.score(sequences, np.arange(span.first, span.stop)))
    return folder, (plan, sequences, teacher)


def on_disk(folder: Path, index: int) -> int:
    """Bytes of a shard and its seal."""
    return sum(path.stat().st_size for path in folder.glob(f"shards/{index:05d}.*"))


def test_a_shard_is_expected_to_take_a_little_more_than_it_does(captured: tuple[Path, Planned], tmp_path: Path) -> None:
    folder, (plan, sequences, _) = captured
    shards = TeacherCache.open(folder).shards
    for span in plan.shards:
        others = [shard.seal for index, shard in shards.items() if index != span.index]
        expected = ShardRoom(OutputLimit(1, (tmp_path,)), sequences, others).expected_bytes([span])
        assert on_disk(folder, span.index) <= expected <= 1.6 * on_disk(folder, span.index) + 16_384


def test_before_any_is_sealed_its_first_batch_says_it(captured: tuple[Path, Planned], tmp_path: Path) -> None:
    folder, (plan, sequences, teacher) = captured
    room = ShardRoom(OutputLimit(10**9, (tmp_path,)), sequences)
    room.measure(teacher, plan.shards[0])
    for span in plan.shards:
        assert on_disk(folder, span.index) <= room.expected_bytes([span])
    assert room.expected_bytes(plan.shards) <= 1.6 * folder_bytes(folder / "shards") + 16_384 * len(plan.shards)


def test_a_first_batch_that_cannot_be_scored_leaves_it_unknown(captured: tuple[Path, Planned], tmp_path: Path) -> None:
    """Its shard will say so; the others can be sealed, and the first of them shows what they take."""
    _, (plan, sequences, teacher) = captured
    room = ShardRoom(OutputLimit(10**9, (tmp_path,)), sequences)
    with mock.patch.object(Teacher, "score", side_effect=NumericsError("not finite")):
        room.measure(teacher, plan.shards[0])
    assert room.must_measure
    room.check(plan.shards)


def test_masked_positions_are_not_paid_for(captured: tuple[Path, Planned], tmp_path: Path) -> None:
    _, (plan, sequences, teacher) = captured
    room = ShardRoom(OutputLimit(10**9, (tmp_path,)), sequences)
    room.measure(teacher, plan.shards[0])
    whole = room.expected_bytes(plan.shards[:1])
    text = sequences.select(slice(None))
    mask_ST = text.loss_mask.copy()
    mask_ST[: plan.shards[0].stop // 2] = False
    masked = ShardRoom(OutputLimit(10**9, (tmp_path,)), dataclasses.replace(text, loss_mask=mask_ST))
    masked.learn(room._size_bytes, room._num_scored)
    half = masked.expected_bytes(plan.shards[:1])
    assert half - 16_384 == pytest.approx((whole - 16_384) / 2, rel=0.1)


def test_without_a_limit_nothing_is_measured_and_all_is_allowed(captured: tuple[Path, Planned]) -> None:
    _, (plan, sequences, _) = captured
    room = ShardRoom(OutputLimit(), sequences)
    room.measure(None, plan.shards[0])  # type: ignore[arg-type]
    room.check(plan.shards)


def test_without_a_limit_the_disk_is_asked_once_something_is_known(
    captured: tuple[Path, Planned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (plan, sequences, _) = captured
    monkeypatch.setattr(output_limit, "folder_bytes", lambda folder: 1 / 0)
    monkeypatch.setattr(output_limit, "free_below", lambda folder: 10_000)
    room = ShardRoom(OutputLimit(None, (tmp_path,)), sequences)
    assert not room.must_measure
    room.check(plan.shards)
    room.learn(100.0, 1)
    words = rf"10 kB are free where .*, and the next shard needs up to .* {len(plan.shards)} shards, takes about"
    with pytest.raises(NoRoomError, match=words):
        room.check(plan.shards)
    monkeypatch.setattr(output_limit, "free_below", lambda folder: int(room.expected_bytes(plan.shards[:1])) + 1)
    room.check(plan.shards)
    with pytest.raises(NoRoomError):
        room.check(plan.shards, at_work=plan.shards[1:2])


def test_what_is_not_known_is_not_refused(captured: tuple[Path, Planned], tmp_path: Path) -> None:
    _, (plan, sequences, _) = captured
    room = ShardRoom(OutputLimit(1, (tmp_path,)), sequences)
    room.check(plan.shards)
    room.learn(100.0, 1)
    with pytest.raises(ConfigError, match=r"1 bytes are allowed, and one shard of this cache alone needs up to"):
        room.check(plan.shards)


def test_room_is_asked_for_the_next_shard_and_told_for_all(captured: tuple[Path, Planned], tmp_path: Path) -> None:
    _, (plan, sequences, _) = captured
    shards = TeacherCache.open(captured[0]).shards
    (tmp_path / "other").write_bytes(b"x" * 1_000_000)
    seals = [shard.seal for shard in shards.values()]
    next_bytes = ShardRoom(OutputLimit(), sequences, seals).expected_bytes(plan.shards[:1])
    ShardRoom(OutputLimit(1_000_001 + int(next_bytes), (tmp_path,)), sequences, seals).check(plan.shards)
    tight = ShardRoom(OutputLimit(999_999 + int(next_bytes), (tmp_path,)), sequences, seals)
    with pytest.raises(PausedError, match=rf"the next shard needs up to .* {len(plan.shards)} shards, takes about"):
        tight.check(plan.shards)
