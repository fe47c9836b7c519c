"""Another value for every key that shapes a cache or a training, and what a run must have been begun with for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Section, keys_of_kind
from stages.config import RunConfig


@dataclass(frozen=True, slots=True)
class Case:
    """What a key is changed to; `shown` is the key under which the message shows it, where that is another."""

    value: str
    base: str = "plain"
    more: tuple[str, ...] = ()
    """what must change along with it"""
    shown: str | None = None


# Settings that a cache or a training was begun with, where a key has no meaning without them.
CACHES: dict[str, tuple[str, ...]] = {
    "plain": (),
    "compact": ("cache.kind=compact",),
    "jsonl": ("data.source=jsonl", "data.path={folder}/texts.jsonl"),
}
TRAININGS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "patience": ("train.patience=3",),
    "easy": ("train.data_order=easy_first",),
    "weighted": ("train.data_order=weighted",),
    "model": ("student.config=null", "student.model={folder}/one"),
}

IDENTITY: dict[str, Case] = {
    "data.source": Case("jsonl"),
    "data.dataset": Case("some-body/some-text"),
    "data.subset": Case("other"),
    "data.dataset_split": Case("test"),
    "data.document_separator": Case("<|endoftext|>"),
    "data.text_column": Case("body"),
    "data.messages_column": Case("chat", base="jsonl"),
    "data.sequence_length": Case("16"),
    "data.packing": Case("one_document"),
    "data.validation_fraction": Case("0.25"),
    "data.max_documents": Case("20"),
    "data.max_tokens": Case("4000"),
    "data.min_characters": Case("2"),
    "data.drop_duplicates": Case("false"),
    "data.seed": Case("1"),
    "teacher.dtype": Case("bfloat16"),
    "cache.kind": Case("compact"),
    "cache.precision": Case("small"),
    "cache.head_size": Case("8"),
    "cache.head_mass": Case("0.8", base="compact"),
    "cache.num_draws": Case("5"),
    "cache.draw_beta": Case("0.9"),
    "cache.seed": Case("1"),
    "cache.shard_positions": Case("600"),
    "cache.batch_size": Case("4"),
    "cache.chunk_positions": Case("7"),
}
SCHEDULE: dict[str, Case] = {
    "student.model": Case("{folder}/two", base="model", shown="student.weights.files.model.safetensors.samples_sha256"),
    "student.config": Case("{{model_type: llama, hidden_size: 8}}", shown="student.config.hidden_size"),
    "student.seed": Case("1"),
    "train.steps": Case("13"),
    "train.epochs": Case("1.0", more=("train.steps=null",)),
    "train.batch_size": Case("2"),
    "train.accumulation": Case("2"),
    "train.objective": Case("bucket"),
    "train.ce_weight": Case("0.2"),
    "train.kd_weight": Case("0.8"),
    "train.rank_weight": Case("0.1"),
    "train.ce_weight_end": Case("0.2"),
    "train.kd_weight_end": Case("0.2"),
    "train.rank_weight_end": Case("0.2"),
    "train.weight_shape": Case("cosine"),
    "train.balance": Case("false"),
    "train.balance_decay": Case("0.9"),
    "train.router": Case("gap"),
    "train.temperature.start": Case("2.0"),
    "train.temperature.end": Case("2.0"),
    "train.temperature.shape": Case("constant"),
    "train.learning_rate": Case("0.002"),
    "train.warmup_steps": Case("3"),
    "train.final_learning_rate_ratio": Case("0.2"),
    "train.weight_decay": Case("0.2"),
    "train.adam_betas": Case("[0.9, 0.99]"),
    "train.adam_epsilon": Case("1e-7"),
    "train.clip_norm": Case("2.0"),
    "train.ema_decay": Case("0.99"),
    "train.dtype": Case("bfloat16"),
    "train.window_shards": Case("3"),
    "train.data_order": Case("hard_first"),
    "train.difficulty": Case("surprise", base="easy"),
    "train.curriculum_levels": Case("4", base="easy"),
    "train.curriculum_epochs": Case("2", base="easy"),
    "train.hard_share": Case("0.25", base="weighted"),
    "train.seed": Case("1"),
    "train.evaluate_every": Case("5"),
    "train.validation_sequences": Case("4"),
    "train.patience": Case("5"),
    "train.min_delta": Case("0.1", base="patience"),
}
# What a model and its tokenizer say of themselves, one field each: key in the file -> another value.
TEACHER_FIELDS: dict[str, Any] = {
    "rope_parameters": {"rope_theta": 20000.0, "rope_type": "default"},
    "rms_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
TOKENIZER_FIELDS: dict[str, tuple[str, str, Any]] = {  # what -> file, path in it, another value; see `set_field`
    "normalizer": ("tokenizer.json", "normalizer", {"type": "Lowercase"}),
    "pre-tokenizer": ("tokenizer.json", "pre_tokenizer.add_prefix_space", True),
    "an added token": ("tokenizer.json", "added_tokens.1.content", "<|begin|>"),
    "whether an added token is special": ("tokenizer.json", "added_tokens.1.special", False),
    "how an added token is looked for": ("tokenizer.json", "added_tokens.1.rstrip", True),
    "the end-of-text token": ("tokenizer_config.json", "eos_token", "<|im_end|>"),
}
BY_WHAT_THEY_NAME = {"student.revision"}
"""Only a hub id has one; what it stands for is compared by the weights themselves"""


def set_field(path: Path, key: str, value: Any) -> None:
    """Change one field of a JSON file; a key may go down through objects and lists: `a.0.b`."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    *down, last = key.split(".")
    at = whole
    for part in down:
        at = at[int(part)] if isinstance(at, list) else at[part]
    assert at[last] != value
    at[last] = value
    path.write_text(json.dumps(whole), encoding="utf-8")


def known_keys(config: RunConfig, kind: Any) -> set[str]:
    """Every key of a kind that a config has, found in its sections."""
    section: Section = config
    return set(keys_of_kind(section, kind))
