"""Models from a folder or the hub, and fresh ones from a config block."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from pipeline.commits import COMMIT, check_commit
from pipeline.errors import ConfigError, DamagedDataError
from pipeline.models.memory import memory_errors
from pipeline.models.source import local_folder, model_folder, name_some, weight_files

# Masks and frequencies that older versions saved beside the weights: nothing learned is in them. Whole names: GPT-2's
# mask is `h.0.attn.bias`, and `h.0.attn.c_attn.bias` is learned.
_BOOKKEEPING = re.compile(r"(^|\.)(masked_bias|causal_mask|inv_freq|position_ids|(attn|attention)\.bias)$")
_REFUSALS = (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, ImportError, SafetensorError)


def load_config(
    reference: str, revision: str | None, trust_remote_code: bool = False, with_weights: bool = True
) -> Any:
    """A model's config without its weights; of a folder also, unless told otherwise, that its safetensors are there."""
    folder = local_folder(reference)
    if folder is not None and with_weights:
        weight_files(folder)
    with _quiet_transformers():
        try:
            return AutoConfig.from_pretrained(
                reference if folder is None else str(folder), revision=revision, trust_remote_code=trust_remote_code
            )
        except _REFUSALS as error:
            raise ConfigError(f"{reference}: its config cannot be read. {_advice(error)}") from error


def load_model(
    reference: str,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
) -> Any:
    """A model in eval mode, every weight of it from the checkpoint; ConfigError says what is wrong and what to do.

    Attention is PyTorch's own (sdpa) where the architecture has it and nothing of it is lost there, else the plain one.
    Every row of the input embedding learns, that of the padding id too: with many models it is the end-of-text id.
    """
    folder = model_folder(reference, revision, trust_remote_code)
    weight_files(folder)
    _refuse_damaged(folder)
    with _quiet_transformers():
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
            )
        except _REFUSALS as error:
            raise ConfigError(f"{reference}: cannot be loaded as a causal language model. {_advice(error)}") from error
    _refuse_partial(reference, report)
    _keep_softcap(model)
    _let_padding_learn(model)
    with memory_errors(
        f"{reference}: the card's memory does not hold this model in {str(dtype).removeprefix('torch.')}. End other "
        "programs that use the card (nvidia-smi lists them), choose a smaller model or dtype, or set device to cpu."
    ):
        return model.to(device).eval()


def empty_model(folder: Path, trust_remote_code: bool = False) -> Any:
    """The model of a folder's config.json without its weights, and without room for any."""
    config = load_config(str(folder), None, trust_remote_code, with_weights=False)
    with _quiet_transformers(), torch.device("meta"):
        try:
            return _keep_softcap(AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code))
        except _REFUSALS as error:
            raise ConfigError(
                f"{folder}: no causal language model can be made of its config. {_advice(error)}"
            ) from error


def make_model(
    config: dict[str, Any],
    vocab_size: int,
    end_of_text_id: int,
    seed: int,
    begin_of_text_id: int | None = None,
    where: str = "student.config",
) -> Any:
    """A fresh model in float32 from a config block (`model_type` and its sizes), the same for the same seed.

    The vocabulary comes from the tokenizer; a larger `vocab_size` in the block pads the matrices. Padding is told to be
    the end-of-text id only afterwards: that id is in the text, and its row is drawn and learns like any other.
    ConfigError, with the key `where` the block stands, for one that no model can be made of.
    """
    values = {"vocab_size": vocab_size, **_checked_block(config, where)}
    if not isinstance(values["vocab_size"], int) or values["vocab_size"] < vocab_size:
        raise ConfigError(
            f"{where}.vocab_size: the tokenizer has {vocab_size:,} ids, found {values['vocab_size']!r}. Leave "
            "the key out."
        )
    values["eos_token_id"], values["pad_token_id"] = end_of_text_id, None
    values["bos_token_id"] = end_of_text_id if begin_of_text_id is None else begin_of_text_id
    try:
        with torch.random.fork_rng(devices=[]), _quiet_transformers():
            torch.manual_seed(seed)
            made = AutoConfig.for_model(config["model_type"], **values)
            model = _keep_softcap(AutoModelForCausalLM.from_config(made, dtype=torch.float32))
    except Exception as error:  # each architecture refuses sizes that do not fit in its own way
        raise ConfigError(f"{where}: no {config['model_type']} model can be made of it. {error}") from error
    for settings in (model.config, model.generation_config):
        if settings is not None:
            settings.pad_token_id = end_of_text_id
    return model


def save_model(model: Any, folder: Path) -> None:
    """Leave config and weights (safetensors) in `folder`, for `from_pretrained`."""
    with _quiet_transformers():
        model.save_pretrained(str(folder), safe_serialization=True)


def _keep_softcap(model: Any) -> Any:
    """The model, with plain attention where its attention's logits are capped (Gemma 2): sdpa knows no cap, and older
    versions of transformers leave it out there without a word."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")
    return model


def _let_padding_learn(model: Any) -> None:
    """PyTorch gives the row of an embedding's `padding_idx` no gradient; here no padding is ever read."""
    embedding = model.get_input_embeddings()
    if isinstance(embedding, torch.nn.Embedding):
        embedding.padding_idx = None


def _refuse_damaged(folder: Path) -> None:
    """DamagedDataError where a student that this project exported is no longer as it was."""
    if not (folder / COMMIT).is_file():
        return
    try:
        check_commit(folder)
    except DamagedDataError as error:
        raise DamagedDataError(
            f"{error}: this model was damaged, or changed, since train-student exported it. Run train-student again, "
            f"which exports it anew; where the change was meant, remove {COMMIT}"
        ) from error


def _refuse_partial(reference: str, report: dict[str, Any]) -> None:
    """Weights the checkpoint lacks would be random, weights the model lacks would be ignored: neither passes."""
    for key, what in (
        ("missing_keys", "the checkpoint lacks weights that this architecture needs (they would be random)"),
        ("mismatched_keys", "the checkpoint has weights of another shape than this architecture"),
        ("unexpected_keys", "the checkpoint has weights that this architecture does not use"),
    ):
        names = sorted(str(name) for name in report.get(key) or () if not _BOOKKEEPING.search(str(name)))
        if names:
            raise ConfigError(
                f"{reference}: {what}: {name_some(names)}. config.json and the weights do not belong together, or this "
                "is no causal language model. Fetch both again from one place, or name another model."
            )


def _checked_block(config: dict[str, Any], where: str) -> dict[str, Any]:
    """The block without model_type; an unknown type or key is refused with the nearest right one."""
    if "model_type" not in config:
        raise ConfigError(f"{where} needs model_type, such as llama")
    model_type = config["model_type"]
    if model_type not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(model_type), list(CONFIG_MAPPING.keys()), 1)
        raise ConfigError(
            f"{where}.model_type: unknown architecture {model_type!r}; "
            + (f"did you mean {near[0]!r}?" if near else "try llama, qwen3 or gpt2")
        )
    with _quiet_transformers():
        default = AutoConfig.for_model(model_type)
    known = sorted(default.to_dict().keys() | type(default).attribute_map.keys())
    for key in config:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"{where}: {model_type} has no key {key!r}; {hint}")
    return {key: value for key, value in config.items() if key != "model_type"}


def _advice(error: Exception) -> str:
    text = str(error).strip()
    if "trust_remote_code" in text:
        return (
            "It needs code that comes with the model, which is not run unless you say so: read that code, then set "
            "trust_remote_code: true."
        )
    return f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice from transformers: what matters of it is raised."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
