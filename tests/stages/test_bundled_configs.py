"""Every bundled config through every stage, with other models, text and smaller sizes, and nothing else changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.cache import TeacherCache
from pipeline.config import load_config
from stages.config import RunConfig, bundled_configs, load_run_config
from tests import tiny
from tests.data.builders import write_lines
from tests.stages.toys import run, status, tree

STUDENT = "{model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}"
SIZES = {
    "data.sequence_length": "32",
    "data.validation_fraction": "0.2",
    "cache.shard_positions": "1200",
    "eval.sample_tokens": "2",
}
OF_OWN_STUDENTS = {"data.max_documents": "6", "data.max_tokens": "4000", "train.steps": "6", "student.config": STUDENT}
MAY_DIFFER = {*SIZES, *OF_OWN_STUDENTS, "teacher.model", "student.model", "eval.teacher", "data.dataset", "cache.roots"}
pytestmark = pytest.mark.slow
PLAIN, CHAT = "kaggle-p100", "kaggle-chat"


@dataclass(frozen=True, slots=True)
class Ground:
    """What stands in for the hub: two models of one tokenizer, and data sets with the subsets that configs name."""

    teacher: Path
    student: Path
    datasets: Path
    runs: Path

    def changes(self, name: str) -> dict[str, str]:
        """The keys a config is given here."""
        config = load_run_config(name)
        changes = SIZES | {"teacher.model": str(self.teacher)}
        if config.student.model is None:
            return changes | OF_OWN_STUDENTS
        dataset = self.datasets / str(config.data.dataset).replace("/", "--")
        if config.eval.teacher is not None:
            changes["eval.teacher"] = str(self.teacher)
        return changes | {"student.model": str(self.student), "data.dataset": str(dataset)}

    def arguments(self, name: str, *more: str) -> list[str]:
        """-c and --set of a config on this ground."""
        pairs = [f"{key}={value}" for key, value in self.changes(name).items()]
        return ["-c", name, *(word for pair in [*pairs, *more] for word in ("--set", pair))]

    def ran(self, stage: str, name: str, *more: str, run_dir: Path | None = None) -> str:
        """Run a stage of a config; it must succeed. Its stdout."""
        budget = ["--time-budget", "11"] if stage in ("cache-teacher", "train-student") else []
        place = ["--run-dir", str(run_dir or self.runs / name)]
        ended = run(stage, *self.arguments(name, *more), *place, *budget, *(["--json"] if stage == "estimate" else []))
        assert ended.code == 0, ended.stderr
        return ended.stdout


@pytest.fixture(scope="module", autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Notebook configs count what lies in the folder `artifacts` of the place they are started in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    texts = [path.read_text(encoding="utf-8") for path in sorted(tiny.write_texts(folder / "texts", 14).iterdir())]
    pages = [{"text": text, "id": str(number)} for number, text in enumerate(texts)]
    chats = [{"messages": _chat(text), "source": "toy"} for text in texts]
    _write_dataset(folder / "datasets" / "HuggingFaceFW--fineweb-edu", "sample-10BT", pages)
    _write_dataset(folder / "datasets" / "HuggingFaceTB--smol-smoltalk", "default", chats)
    teacher = tiny.save_model(folder / "teacher")
    student = tiny.save_model(folder / "student", seed=1, hidden_size=16, intermediate_size=32)
    return Ground(teacher, student, folder / "datasets", folder / "runs")


def _chat(text: str) -> list[dict[str, str]]:
    turns = [text[:60], text[60:220], text[220:260], text[260:]]
    return [{"role": ("user", "assistant")[turn % 2], "content": part} for turn, part in enumerate(turns)]


def _write_dataset(folder: Path, subset: str, rows: list[dict[str, Any]]) -> None:
    """A data set as on the hub: its card says which files are the subset."""
    write_lines(folder / "rows" / "train.jsonl", rows)
    card = f"---\nconfigs:\n- config_name: {subset}\n  data_files:\n  - split: train\n    path: rows/*\n---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")


# ------------------------------------------------------------------ every stage


@pytest.fixture(scope="module", params=sorted(bundled_configs()))
def finished(request: pytest.FixtureRequest, ground: Ground) -> tuple[str, Path, dict[str, Any]]:
    """A config whose stages have all run: its name, its run, and what estimate said before."""
    name, run_dir = str(request.param), ground.runs / str(request.param)
    estimate = json.loads(ground.ran("estimate", name))
    assert not run_dir.exists()
    for stage in ("cache-teacher", "train-student", "eval"):
        ground.ran(stage, name)
    return name, run_dir, estimate


def test_nothing_but_models_text_and_sizes_was_changed(finished: tuple[str, Path, dict[str, Any]]) -> None:
    name, run_dir, _ = finished
    used, bundled = load_config(RunConfig, run_dir / "config.yaml"), load_run_config(name)
    assert _changed(bundled.model_dump(mode="json"), used.model_dump(mode="json")) <= MAY_DIFFER


def test_every_stage_completes(finished: tuple[str, Path, dict[str, Any]], ground: Ground) -> None:
    name, run_dir, _ = finished
    assert status(run_dir)["state"] == "complete"
    rows = json.loads((run_dir / "eval" / "eval.json").read_text(encoding="utf-8"))["rows"]
    with_teacher = load_run_config(name).eval.teacher is not None
    assert [row["kl_exact_nats"] is not None for row in rows[1:]] == [with_teacher] * (len(rows) - 1)
    assert run("verify", str(run_dir)).code == 0
    assert run("report", str(run_dir)).code == 0
    assert (run_dir / "report" / "report.html").is_file()
    before = tree(run_dir / "student")
    ground.ran("train-student", name)
    assert tree(run_dir / "student") == before


def test_the_estimate_was_right(finished: tuple[str, Path, dict[str, Any]]) -> None:
    _, run_dir, estimate = finished
    cache = TeacherCache.open(run_dir)
    assert estimate["text"]["num_tokens"] == cache.plan.num_sequences * cache.plan.sequence_length
    assert estimate["training"]["num_steps"] == status(run_dir)["stages"]["train-student"]["progress"]["steps"]
    assert estimate["disk"]["fits"]


def test_dtype_schedule_and_head_are_those_of_the_config(finished: tuple[str, Path, dict[str, Any]]) -> None:
    name, run_dir, _ = finished
    config, cache = load_run_config(name), TeacherCache.open(run_dir)
    dtypes = {"auto": "float32"}  # on a CPU
    assert cache.plan.capture["dtype"] == dtypes.get(config.teacher.dtype, config.teacher.dtype)
    assert cache.plan.layout.head_size == min(config.cache.head_size, cache.plan.layout.vocab_size)
    newest = sorted(run_dir.glob("student/checkpoints/step-*/state.json"))[-1]
    state = json.loads(newest.read_text(encoding="utf-8"))
    assert state["learner"]["dtype"] == dtypes.get(config.train.dtype, config.train.dtype)
    lines = [json.loads(line) for line in (run_dir / "student" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert steps[-1]["temperature"] == config.train.temperature.end
    assert steps[-1]["learning_rate"] > 0


# ------------------------------------------------------------------ what their comments promise


def test_the_original_trains_from_the_cache_of_the_p100(ground: Ground, tmp_path: Path) -> None:
    ground.ran("cache-teacher", PLAIN)
    roots = f"cache.roots=[{ground.runs / PLAIN / 'cache'}]"
    ground.ran("train-student", "original-3.0", roots, run_dir=tmp_path / "run")
    assert not list((tmp_path / "run").glob("cache/shards/*"))


def test_the_second_card_can_train_on_labels_from_the_same_cache(ground: Ground, tmp_path: Path) -> None:
    ground.ran("cache-teacher", "kaggle-t4x2")
    roots = f"cache.roots=[{ground.runs / 'kaggle-t4x2' / 'cache'}]"
    labels = ("train.kd_weight=0", "train.ce_weight=1", roots)
    ground.ran("train-student", "kaggle-t4x2", *labels, run_dir=tmp_path / "run")
    assert status(tmp_path / "run")["state"] == "complete"


def test_of_chats_only_what_the_assistant_says_is_scored(ground: Ground) -> None:
    ground.ran("cache-teacher", CHAT)
    cache = TeacherCache.open(ground.runs / CHAT)
    assert 0.2 < cache.sequences.select(slice(None)).loss_mask.mean() < 0.8


def _changed(before: Any, after: Any, prefix: str = "") -> set[str]:
    """Dotted keys of the configuration that differ; a free-form block is one key."""
    if not isinstance(before, dict) or not isinstance(after, dict) or prefix in ("student.config", "demo.teacher"):
        return {prefix} if before != after else set()
    keys = before.keys() | after.keys()
    parts = (_changed(before.get(key), after.get(key), f"{prefix}.{key}".lstrip(".")) for key in keys)
    return set().union(*parts)
