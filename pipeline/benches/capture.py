"""What capturing costs beside the teacher's bare forward pass with its logits, on the same batches.

    capture.vs_forward = seconds of the forward pass and its logits / seconds of capture

Capture is all of it: forward pass, logits, scoring, encoding, packing, writing and sealing a shard on disk.

    capture.durability_share = seconds in which a shard as large as a capture here makes them is written, flushed, read
                               back, hashed and renamed / seconds of its capture
"""

from __future__ import annotations

import cProfile
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline import files
from pipeline.benches.results import Result, measured
from pipeline.benches.rounds import alternate, median_ratio
from pipeline.benches.shapes import SHAPES, layout_of, make_shape, plan_of, random_sequences
from pipeline.cache.seal import Seal
from pipeline.cache.settings import CacheSettings
from pipeline.cache.writer import CacheWriter
from pipeline.data.sequences import Sequences
from pipeline.models.device import choose_dtype, environment
from pipeline.models.probe import shard_positions_of, usual_chunk
from pipeline.models.shard_scorer import Scored, beside_packing
from pipeline.models.teacher import Teacher

GOALS = {"cpu": 0.82, "cuda": 0.95}
DURABILITY_GOAL = 0.03
_SCORE, _ENCODE = ("teacher.py", "score"), ("byte_codec.py", "encode")
# Part of scoring -> the functions it consists of, as (file, name); what they call counts.
PARTS: dict[str, tuple[tuple[str, str], ...]] = {
    "forward": (("teacher.py", "_hidden"),),
    "logits": (("head.py", "logits_float32"), ("scoring.py", "finite_rows")),
    "top_k": (("top_ids.py", "top_ids"),),
    "tail_masses": (("tail_sums.py", "tail_sums"),),
    "draws": (("draws.py", "draw_ids"), ("teacher.py", "_uniforms")),
    "store": (("teacher.py", "_store"),),
}


@dataclass(frozen=True, slots=True)
class CaptureBench:
    """The two sides: a bare forward pass with its logits, and a whole capture of one shard."""

    teacher: Teacher
    sequences: Sequences
    folder: Path

    def forward(self) -> None:
        """Hidden states and logits of every position, in the batches and chunks of the capture; nothing is kept."""
        model = self.teacher.model
        for batch_B in self._batches():
            ids_BT = torch.from_numpy(self.sequences.input_ids[batch_B, :-1].astype(np.int64)).to(model.device)
            positions_BT = torch.from_numpy(self.sequences.position_ids(batch_B)).to(model.device)
            with torch.no_grad():
                hidden_ND = model.hidden(ids_BT, positions_BT).flatten(0, 1)
            for hidden_nD in torch.split(hidden_ND, self.teacher.chunk_positions):
                model.head.logits_float32(hidden_nD)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)

    def capture(self) -> Seal:
        """Score, encode, write and seal one shard on disk."""
        files.remove_folder(self.folder)
        plan = plan_of(self.teacher, self.sequences, sequences_digest="")
        writer = CacheWriter(self.folder, plan, self.sequences, environment(self.teacher.device))
        with beside_packing(self._score(), self.teacher.device) as records:
            return writer.write(plan.shards[0], records)

    def _score(self) -> Scored:
        for batch_B in self._batches():
            yield self.teacher.score(self.sequences, batch_B)

    def _batches(self) -> list[np.ndarray]:
        size = self.teacher.batch_size
        return [np.arange(first, first + size) for first in range(0, self.sequences.num_sequences, size)]


def bench_capture(
    folder: Path,
    device: torch.device,
    shape: str,
    sequence_length: int = 512,
    batch_size: int = 8,
    num_batches: int = 2,
    rounds: int = 3,
) -> list[Result]:
    """Capture a few batches of random ids with a random model of a named shape; `folder` is used and emptied."""
    vocab_size = SHAPES[shape]["vocab_size"]
    causal = make_shape(shape, choose_dtype("auto", device), device)
    chunk = usual_chunk(vocab_size, device.type == "cuda")
    bench = CaptureBench(
        Teacher(causal, layout_of(vocab_size), seed=0, batch_size=batch_size, chunk_positions=chunk),
        random_sequences(batch_size * num_batches, 0, sequence_length, vocab_size),
        folder,
    )
    try:
        seconds = alternate({"forward": bench.forward, "capture": bench.capture}, rounds)
        parts, seal = _profile(bench)
        num_positions, usual = bench.sequences.loss_mask.size, statistics.median(seconds["capture"])
        position_bytes = seal.size_bytes / num_positions
        shard_positions = shard_positions_of(causal, position_bytes, CacheSettings().shard_positions)
        writing = _writing_seconds(folder, round(shard_positions * position_bytes), rounds)
    finally:
        files.remove_folder(folder)
    ratio = median_ratio(seconds["forward"], seconds["capture"])
    results = [
        measured("capture.vs_forward", ratio, at_least=GOALS[device.type]),
        measured("capture.tokens_per_second", num_positions / usual, "tokens/s"),
        measured("capture.entropy_nats", seal.statistics["entropy_mean_nats"], "nats"),
        measured("capture.bytes_per_token", position_bytes, "bytes"),
        measured("capture.shard_write_seconds", writing, "s"),
        measured(
            "capture.durability_share", writing / (shard_positions * usual / num_positions), at_most=DURABILITY_GOAL
        ),
    ]
    if device.type == "cuda":  # a card works on while Python goes ahead: the parts cannot be told by a profile
        return results
    return results + [
        measured(f"capture.us.{name}", part / num_positions * 1e6, "us/token") for name, part in parts.items()
    ]


def _writing_seconds(folder: Path, shard_bytes: int, rounds: int) -> float:
    """What it takes to write a shard of so many bytes, and its seal, as they are written; the median of the rounds."""
    content = np.random.default_rng(0).bytes(shard_bytes)

    def write() -> None:
        digest = files.write_file(folder / "shard", content)
        files.write_json(folder / "seal", {"size_bytes": digest.size_bytes, "xxh3_128": digest.xxh3_128})

    return statistics.median(alternate({"write": write}, rounds)["write"])


def _profile(bench: CaptureBench) -> tuple[dict[str, float], Seal]:
    """Seconds of each part of one more capture, by a profile of it; `other` is the rest of scoring."""
    profiler = cProfile.Profile()
    profiler.enable()
    seal = bench.capture()
    profiler.disable()
    profiler.create_stats()
    below: dict[tuple[str, str], float] = {}
    total = 0.0
    for (path, _, name), (_, _, own, cumulative, _) in profiler.stats.items():
        key = (Path(path).name, name)
        below[key] = below.get(key, 0.0) + cumulative
        total += own
    missing = [key for keys in ((_SCORE, _ENCODE), *PARTS.values()) for key in keys if key not in below]
    assert not missing, f"the profile of a capture does not know {missing}: a function was renamed"
    parts = {part: sum(below[key] for key in keys) for part, keys in PARTS.items()}
    parts["tail_masses"] -= below["draws.py", "draw_ids"]
    parts["other"] = below[_SCORE] - sum(parts.values())
    return parts | {"encode": below[_ENCODE], "write": total - below[_SCORE] - below[_ENCODE]}, seal
