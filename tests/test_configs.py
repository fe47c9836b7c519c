"""The numbers that the bundled configs state in their comments are those the code computes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cache.settings import DEFAULTS
from pipeline.config import keys_of_kind
from pipeline.distill.checkpoint_room import CheckpointRoom
from pipeline.distill.keeping.checkpoint import KEPT
from pipeline.distill.learner import Learner
from pipeline.distill.optimization.precision import autocast
from pipeline.distill.settings import TrainSettings
from pipeline.evaluation.memory import weights_bytes
from pipeline.models import CausalModel
from pipeline.models.loading import make_model
from pipeline.models.student import recompute_activations
from pipeline.output_limit import OutputLimit
from pipeline.pricing.training import memory_of, num_steps_on
from stages.config import RunConfig, bundled_configs, load_run_config
from tests.typed_commands import wrong_with

LARGE = ("kaggle-p100", "kaggle-t4x2", "original-3.0", "kaggle-chat")
OF_NOTEBOOKS = LARGE
PRICED = ("kaggle-p100", "kaggle-t4x2")
VOCAB_SIZE = 49_152
SMOLLM2_135M: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}
RECORD_BYTES, ID_BYTES = 342, 2  # measured by `bench codec`; two bytes name one of 49,152 ids


def stated(name: str, what: str) -> int:
    """The number behind `what` in the tables of a config's comments, in MB."""
    [number] = re.findall(rf"^# +{what} +([\d,]+)\b", bundled_configs()[name].read_text(encoding="utf-8"), re.M)
    return int(number.replace(",", ""))


def commands(path: Path) -> list[list[str]]:
    """Every command that the comments of a config tell people to type."""
    text = path.read_text(encoding="utf-8").replace(" \\\n#", "")
    lines = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    found = [re.search(r"(?:^|[A-Z_]+=\d+ )(sad-pipeline .*)", line) for line in lines]
    return [shlex.split(match[1], comments=True) for match in found if match]


def student(num_layers: int) -> CausalModel:
    """SmolLM2-135M, or less of it, with random weights."""
    block = SMOLLM2_135M | {"num_hidden_layers": num_layers}
    return CausalModel(make_model(block, VOCAB_SIZE, 0, seed=0), VOCAB_SIZE, section="student")


@pytest.fixture(scope="module")
def whole() -> CausalModel:
    """The student of the large configs as it is in memory."""
    return student(SMOLLM2_135M["num_hidden_layers"])


# ------------------------------------------------------------------ what they ask for


@pytest.mark.parametrize("name", LARGE)
def test_the_large_configs_keep_what_the_original_fixed(name: str) -> None:
    config = load_run_config(name)
    train = config.train
    assert (train.learning_rate, train.warmup_steps) == (3e-5, 1000)
    assert (config.teacher.dtype, train.dtype, config.cache.head_size) == ("float16", "float16", 256)
    assert train.batch_size * train.accumulation == 32
    assert config.cache.kind == "topk"


def test_the_original_and_the_p100_take_micro_batches_of_four_eight_times() -> None:
    for name in ("original-3.0", "kaggle-p100"):
        train = load_run_config(name).train
        assert (train.batch_size, train.accumulation) == (4, 8)


def test_the_original_has_its_curriculum_and_its_loss() -> None:
    train = load_run_config("original-3.0").train
    assert (train.balance, train.patience, train.min_delta) == (True, 10, 0.001)
    assert (train.temperature.start, train.temperature.end, train.temperature.shape) == (3.0, 2.0, "linear")
    assert (train.objective, train.ema_decay) == ("subset", 0.999)


def test_one_cache_serves_three_configs() -> None:
    def identity(config: RunConfig) -> dict[str, Any]:
        sections = (config.data, config.teacher, config.cache)
        models = {"teacher": config.teacher.model, "student": config.student.model}
        return models | {key: value for section in sections for key, value in keys_of_kind(section, "identity").items()}

    first, *others = (identity(load_run_config(name)) for name in ("kaggle-p100", "kaggle-t4x2", "original-3.0"))
    assert [other == first for other in others] == [True, True]


@pytest.mark.parametrize("name", OF_NOTEBOOKS)
def test_a_compact_cache_is_one_word_away(name: str) -> None:
    cache = load_run_config(name, ("cache.kind=compact",)).cache
    own = DEFAULTS["compact"]
    assert {key: getattr(cache, key) for key in own} == own


@pytest.mark.parametrize("name", OF_NOTEBOOKS)
def test_a_notebooks_time_and_disk_are_in_its_config(name: str) -> None:
    """So that no command needs a flag for them, and none in the comments has one."""
    session = load_run_config(name).session
    assert (session.time_budget_hours, session.max_output_gb, session.output_folders) == (11, 19, ["artifacts"])
    flags = {word for words in commands(bundled_configs()[name]) for word in words if word.startswith("--")}
    assert not flags & {"--time-budget", "--max-output-gb", "--session-start", "--hours", "--gb"}


def test_other_configs_leave_time_and_disk_to_the_machine() -> None:
    for name in bundled_configs().keys() - set(OF_NOTEBOOKS):
        session = load_run_config(name).session
        assert (session.time_budget_hours, session.max_output_gb) == (None, None), name


@pytest.mark.parametrize("name", OF_NOTEBOOKS)
def test_a_cache_of_a_notebooks_config_leaves_room_for_a_training(name: str) -> None:
    """Positions of chats are not all recorded; of the others they are."""
    config = load_run_config(name)
    disk = stated("kaggle-p100", "checkpoints") + stated("kaggle-p100", "model") + average_on_disk(config.train)
    room = 1000 * (config.session.max_output_gb or 0)
    assert num_positions(config) * (RECORD_BYTES + ID_BYTES) / 1e6 + disk < room


def average_on_disk(settings: TrainSettings) -> int:
    """MB that checkpoints take beside those of kaggle-p100, which keeps no average of its weights."""
    assert load_run_config("kaggle-p100").train.ema_decay == 0
    return (KEPT + 1) * stated("kaggle-p100", "parameters") * (settings.ema_decay > 0)


def test_the_original_says_what_it_takes_beside_the_p100() -> None:
    text = bundled_configs()["original-3.0"].read_text(encoding="utf-8").replace("\n# ", " ")
    more = average_on_disk(load_run_config("original-3.0").train)
    [memory, disk] = re.findall(r"takes (\d+) MB more of memory, and ([\d.]+) GB of disk", text)[0]
    assert (int(memory), disk) == (stated("kaggle-p100", "parameters"), f"{more / 1000:.1f}")
    [said] = re.findall(r"model take ([\d.]+) of them", text)
    assert said == f"{(stated('kaggle-p100', 'together') + more) / 1000:.1f}"
    text = bundled_configs()["kaggle-p100"].read_text(encoding="utf-8")
    [said] = re.findall(r"and (\d+) more for an average of the weights", text)
    assert int(said) == stated("kaggle-p100", "parameters")
    [said] = re.findall(r"beside those of this config it holds (\d+) million", text)
    config = load_run_config("kaggle-p100")
    room = 19_000 - stated("kaggle-p100", "checkpoints") - stated("kaggle-p100", "model")
    position = (RECORD_BYTES + ID_BYTES) * (1 + config.data.validation_fraction)
    assert int(said) == int(room / position)


@pytest.mark.parametrize("name", LARGE)
def test_the_commands_in_the_comments_can_be_typed(name: str) -> None:
    found = commands(bundled_configs()[name])
    assert {"cache-teacher", "train-student", "eval", "report"} <= {words[1] for words in found}
    assert {shlex.join(words): wrong_with(words) for words in found if wrong_with(words)} == {}
    assert all(words[words.index("-c") + 1] == name for words in found if "-c" in words)


# ------------------------------------------------------------------ what they say it takes


@pytest.mark.slow
@pytest.mark.parametrize("name", PRICED)
def test_the_memory_stated_is_what_the_code_counts(name: str, whole: CausalModel) -> None:
    settings = load_run_config(name).train
    memory = memory_of(Learner(whole, settings, 1, torch.float16), weights_bytes(whole.model))
    assert memory.average == 0
    parts = {
        "parameters": memory.parameters,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "head chunk": memory.head_chunk,
        "known parts": memory.known_parts,
    }
    assert {part: stated(name, part) for part in parts} == {part: round(size / 1e6) for part, size in parts.items()}
    assert memory.parameters // 4 == pytest.approx(134_515_008, abs=64)  # and a few frequencies in buffers


@pytest.mark.slow
@pytest.mark.parametrize("name", PRICED)
def test_the_activations_stated_are_what_autograd_keeps(name: str) -> None:
    """Of one layer and of two; thirty are as many times their difference more."""
    config = load_run_config(name)
    one, two = (kept_bytes(student(layers)) for layers in (1, 2))
    positions = config.train.batch_size * config.data.sequence_length
    whole = (one + 29 * (two - one)) * positions
    assert stated(name, "activations") == pytest.approx(whole / 1e6, rel=0.01)


@pytest.mark.slow
def test_the_activations_of_recomputing_are_stated() -> None:
    text = bundled_configs()["kaggle-p100"].read_text(encoding="utf-8")
    [number] = re.findall(r"; (\d+) with train.gradient_checkpointing: true", text)
    one, two = (kept_bytes(student(layers), recompute_activations) for layers in (1, 2))
    within = kept_bytes(student(2)) - kept_bytes(student(1))  # one layer at a time is whole
    assert int(number) == pytest.approx((one + 29 * (two - one) + within) * 4 * 512 / 1e6, rel=0.01)


def kept_bytes(causal: CausalModel, prepare: Callable[[CausalModel], None] | None = None) -> float:
    """Bytes a position that autograd keeps of a forward pass under float16 autocast, weights apart."""
    batch, length = 2, 128
    if prepare is not None:
        prepare(causal)
    causal.model.train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*causal.model.parameters(), *causal.model.buffers())}
    half = {(p.shape, p.T.shape) for p in causal.model.parameters() if p.ndim == 2}
    weights = {shape for pair in half for shape in pair}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.shape not in weights:  # nor autocast's copies of weights
            kept[storage.data_ptr()] = storage
        return tensor

    ids_BT = torch.randint(0, VOCAB_SIZE, (batch, length), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(causal.device, torch.float16):
        causal.hidden(ids_BT, torch.arange(length).expand(batch, -1))
    return sum(storage.nbytes() for storage in kept.values()) / (batch * length)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRICED)
def test_the_disk_stated_is_what_a_run_leaves(name: str, whole: CausalModel) -> None:
    config = load_run_config(name)
    learner = Learner(whole, config.train, 1, torch.float16)
    model = weights_bytes(whole.model)
    parts = {
        "cache": num_positions(config) * (RECORD_BYTES + ID_BYTES),
        "checkpoints": (KEPT + 1) * (learner.checkpoint_bytes + model),
        "model": model,
    }
    assert {part: stated(name, part) for part in parts} == {
        part: pytest.approx(v / 1e6, abs=1) for part, v in parts.items()
    }
    total = stated(name, "together")
    assert total == pytest.approx(sum(parts.values()) / 1e6, abs=2)
    assert total < 19_000
    assert total < 1000 * (config.session.max_output_gb or 0)
    room = CheckpointRoom(OutputLimit(), learner, Path("no tokenizer"))
    assert (KEPT + 1) * room.next_bytes + room.model_bytes == pytest.approx(parts["checkpoints"] + model, rel=1e-3)
    if name == "kaggle-t4x2":  # what two trainings leave
        assert round(2 * (parts["checkpoints"] + parts["model"]) / 1e9, 1) == 14.0
    room = 19e9 - parts["checkpoints"] - parts["model"]
    if name == "kaggle-p100":
        assert room // num_positions(config) == 426
        assert int(19e9 / (RECORD_BYTES + ID_BYTES) / 1e6) == 55


def num_positions(config: RunConfig) -> int:
    """Positions of a cache whose text is as long as the config allows, held-out ones included."""
    assert config.data.max_tokens is not None
    return round(config.data.max_tokens * (1 + config.data.validation_fraction))


@pytest.mark.parametrize("name", ["kaggle-p100", "kaggle-t4x2", "kaggle-chat"])
def test_the_steps_stated_are_those_of_the_epochs(name: str) -> None:
    config = load_run_config(name)
    assert config.data.max_tokens is not None
    steps = num_steps_on(config.data.max_tokens // config.data.sequence_length, config.train)
    text = bundled_configs()[name].read_text(encoding="utf-8")
    [said] = re.findall(r"epochs: 3 +# ([\d,]+) steps", text)
    assert int(said.replace(",", "")) == pytest.approx(steps, rel=0.005)
    [evaluations] = re.findall(r"evaluate_every: \d+ +# (\d+) times in all", text)
    assert -(-steps // config.train.evaluate_every) == int(evaluations), "and after the last step"
    assert TrainSettings(**config.train.model_dump()) == config.train
