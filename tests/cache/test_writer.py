"""The writer: sealed or absent, the same bytes whatever happened on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline import files
from pipeline.cache import TeacherCache
from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records
from pipeline.cache.seal import Seal
from pipeline.cache.writer import CacheWriter
from pipeline.data.sequences import TRAIN, VALIDATION
from pipeline.errors import ConfigError, IdentityError, StorageError
from tests.cache.dense import ENVIRONMENT, logits_of, make_cache, make_plan, make_sequences, records_of, write_shards

LAYOUT = RecordLayout(50, 8, 3)


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}


def test_every_shard_gets_a_seal_that_speaks_of_its_bytes(tmp_path: Path) -> None:
    plan, sequences, _ = make_cache(tmp_path)
    for span in plan.shards:
        seal = Seal.load(tmp_path / "shards" / span.seal_name)
        digest = files.digest_file(tmp_path / "shards" / span.shard_name)
        assert (seal.size_bytes, seal.xxh3_128) == (digest.size_bytes, digest.xxh3_128)
        assert (seal.first, seal.count, seal.num_positions) == (span.first, span.count, span.count * 16)
        assert seal.num_scored == sequences.loss_mask[span.first : span.stop].sum()
        assert seal.environment == ENVIRONMENT
        assert seal.statistics["bytes_per_scored_position"] == pytest.approx(seal.size_bytes / seal.num_scored)


def test_parts_of_any_size_give_the_same_bytes(tmp_path: Path) -> None:
    plan, sequences, records = make_cache(tmp_path / "whole")
    make_plan(tmp_path / "parts", sequences, plan.layout)
    writer = CacheWriter(tmp_path / "parts", plan, sequences, ENVIRONMENT)
    for span in reversed(plan.shards):
        writer.write(span, (records.rows(slice(row * 16, row * 16 + 16)) for row in range(span.first, span.stop)))
    assert _bytes_of(tmp_path / "parts") == _bytes_of(tmp_path / "whole")


def test_masked_positions_leave_no_trace(tmp_path: Path) -> None:
    plan, sequences, records = make_cache(tmp_path / "clean")
    masked = ~sequences.loss_mask.reshape(-1)
    for field in records.fields():
        field[masked] = 7
    make_plan(tmp_path / "dirty", sequences, plan.layout)
    write_shards(tmp_path / "dirty", plan, sequences, records)
    assert _bytes_of(tmp_path / "dirty") == _bytes_of(tmp_path / "clean")


def test_missing_is_what_no_root_has_sealed(tmp_path: Path) -> None:
    plan, sequences, records = make_cache(tmp_path / "here")
    for index in (0, 2):
        (tmp_path / "here" / "shards" / plan.shards[index].seal_name).unlink()

    def missing(*roots: Path) -> list[int]:
        return [span.index for span in TeacherCache.open(tmp_path / "here", *roots).missing]

    assert missing() == [0, 2]
    make_cache(tmp_path / "mounted" / "deep" / "below")
    (tmp_path / "mounted" / "deep" / "below" / "shards" / plan.shards[0].seal_name).unlink()
    assert missing(tmp_path / "mounted") == [0]
    with pytest.raises(ConfigError, match="no such folder"):
        missing(tmp_path / "nowhere")
    before = _bytes_of(tmp_path / "here")
    write_shards(tmp_path / "here", plan, sequences, records)
    after = _bytes_of(tmp_path / "here")
    assert before.items() <= after.items()
    assert missing() == []


def test_a_failure_halfway_leaves_neither_shard_nor_seal(tmp_path: Path) -> None:
    sequences = make_sequences(5, 2, 16, 50)
    plan = make_plan(tmp_path, sequences, LAYOUT)
    writer = CacheWriter(tmp_path, plan, sequences, ENVIRONMENT)

    def stopping() -> Iterator[Records]:
        yield records_of(LAYOUT, logits_of(16, 50))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write(plan.shards[1], stopping())
    assert list((tmp_path / "shards").iterdir()) == []
    assert TeacherCache.open(tmp_path).missing == [*plan.spans(VALIDATION), *plan.spans(TRAIN)]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (records_of(LAYOUT, logits_of(17, 50)), "found 17 positions"),
        (records_of(LAYOUT, logits_of(16, 50)), "records end at sequence 3, expected 4"),
        (records_of(LAYOUT, logits_of(48, 50)), "found 48 positions"),
        (Records.blank(RecordLayout(50, 8, 4), 32), "in the plan's layout"),
    ],
)
def test_records_that_do_not_fit_the_span(tmp_path: Path, records: Records, message: str) -> None:
    sequences = make_sequences(5, 2, 16, 50)
    plan = make_plan(tmp_path, sequences, LAYOUT)
    with pytest.raises(ValueError, match=message):
        CacheWriter(tmp_path, plan, sequences, ENVIRONMENT).write(plan.shards[1], records)
    assert list((tmp_path / "shards").iterdir()) == []


def test_seals_of_another_plan_are_never_written_over(tmp_path: Path) -> None:
    make_cache(tmp_path, seed=1)
    sequences = make_sequences(5, 2, 16, 50)
    plan = make_plan(tmp_path, sequences, LAYOUT)
    before = _bytes_of(tmp_path)
    with pytest.raises(IdentityError, match="belongs to the cache with plan"):
        CacheWriter(tmp_path, plan, sequences, ENVIRONMENT)
    assert _bytes_of(tmp_path) == before


def test_remains_of_a_crash_are_swept(tmp_path: Path) -> None:
    plan, sequences, _ = make_cache(tmp_path)
    for name in (".plan.json.0123456789ab.tmp", "shards/.00000.shard.ba9876543210.tmp"):
        (tmp_path / name).write_bytes(b"half")
    CacheWriter(tmp_path, plan, sequences, ENVIRONMENT).remove_unfinished()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_shard_whose_seal_never_came_makes_room(tmp_path: Path) -> None:
    """For itself: it is written again. Only where that is asked for: another writer may be about to seal it."""
    plan, sequences, _ = make_cache(tmp_path)
    first, second = plan.shards[:2]
    (tmp_path / "shards" / first.seal_name).unlink()
    writer = CacheWriter(tmp_path, plan, sequences, ENVIRONMENT)
    assert (tmp_path / "shards" / first.shard_name).is_file()
    writer.remove_unfinished()
    assert not (tmp_path / "shards" / first.shard_name).exists()
    assert (tmp_path / "shards" / second.shard_name).is_file()


def test_a_folder_where_a_file_stands(tmp_path: Path) -> None:
    sequences = make_sequences(5, 2, 16, 50)
    plan = make_plan(tmp_path, sequences, LAYOUT)
    (tmp_path / "shards").write_text("in the way")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        CacheWriter(tmp_path, plan, sequences, ENVIRONMENT)


_WRITE_FOREVER = """
import sys
from pathlib import Path
from pipeline.cache import TeacherCache
from pipeline.cache.plan import Plan
from pipeline.cache.sequence_file import StoredSequences
from pipeline.cache.writer import CacheWriter
from tests.cache.dense import ENVIRONMENT, logits_of, records_of
folder = Path(sys.argv[1])
plan = Plan.load(folder / "plan.json")
sequences = StoredSequences.of(plan, folder / "sequences.shard")
records = records_of(plan.layout, logits_of(plan.num_sequences * 16, 50))
writer = CacheWriter(folder, plan, sequences, ENVIRONMENT)
for span in TeacherCache.open(folder).missing:
    print("next", flush=True)
    sys.stdin.readline()
    writer.write(span, records.rows(slice(span.first * 16, span.stop * 16)))
"""


def test_killed_between_any_shards_and_run_again(tmp_path: Path) -> None:
    make_cache(tmp_path / "straight")
    plan = make_plan(tmp_path / "killed", make_sequences(5, 2, 16, 50), LAYOUT)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for kept in (1, 2):
        command = [sys.executable, "-c", _WRITE_FOREVER, str(tmp_path / "killed")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for _ in range(kept):
                process.stdout.readline()
                process.stdin.write(b"\n")
                process.stdin.flush()
            process.stdout.readline()
            process.send_signal(signal.SIGKILL)
    assert 0 < len(list((tmp_path / "killed" / "shards").glob("*.seal.json"))) < len(plan.shards)
    records = records_of(LAYOUT, logits_of(plan.num_sequences * 16, 50))
    write_shards(tmp_path / "killed", plan, make_sequences(5, 2, 16, 50), records)
    assert _bytes_of(tmp_path / "killed") == _bytes_of(tmp_path / "straight")


def test_a_larger_vocabulary_than_16_bits_hold(tmp_path: Path) -> None:
    layout = RecordLayout(70_000, 4, 2)
    sequences = make_sequences(2, 1, 4, 70_000)
    plan = make_plan(tmp_path, sequences, layout)
    logits_NV = logits_of(12, 70_000)
    logits_NV[:, 69_999] = 50
    records = records_of(layout, logits_NV)
    write_shards(tmp_path, plan, sequences, records)
    found = TeacherCache.open(tmp_path).read(np.arange(3))[1]
    scored = sequences.loss_mask.reshape(-1)
    assert scored.any()
    assert (found.ids_TK[scored] == records.ids_TK[scored]).all()
    assert (found.ids_TK[scored][:, -1] == 69_999).all()
