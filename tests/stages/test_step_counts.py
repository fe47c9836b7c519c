"""train-student through small numbers of steps and every interval: to the end, with every line where it belongs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.stages.toys import Toy, status
from tests.stages.trainings import checkpoint, metrics, train

INTERVALS = (1, 2, 3, 7)


def due(every: int, steps: int) -> list[int]:
    return [step for step in range(1, steps + 1) if step % every == 0 or step == steps]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_every_number_of_steps_through_every_interval(steps: int, toy: Toy, cached: Path, tmp_path: Path) -> None:
    """Evaluation and logging each take all of the intervals; checkpoints and warm-up take turns with them."""
    for turn, (evaluate, log) in enumerate(itertools.product(INTERVALS, INTERVALS)):
        save, warm_up = INTERVALS[(turn + turn // 4) % 4], turn % 4
        settings = {"steps": steps, "evaluate_every": evaluate, "log_every": log, "checkpoint_every": save}
        settings |= {"warmup_steps": warm_up, "validation_sequences": 2, "batch_size": 2}
        options = [word for key, value in settings.items() for word in ("--set", f"train.{key}={value}")]
        run_dir = tmp_path / f"{evaluate}-{log}"
        train(toy, cached, run_dir, *options)
        assert status(run_dir)["progress"] == {"steps": steps, "of": steps}
        lines = metrics(run_dir)
        assert [line["step"] for line in lines if line["kind"] == "train"] == due(log, steps), settings
        validated = [line["step"] for line in lines if line["kind"] == "validation"]
        assert validated == [step for step in due(evaluate, steps) for _ in ("raw", "ema")], settings
        timed = (run_dir / "student" / "timings.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in timed] == due(log, steps), settings
        assert checkpoint(run_dir, steps).is_dir()
        assert (run_dir / "student" / "model" / "config.json").is_file()
