"""The student as it begins: an existing model, or a fresh one made from a config block."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedTokenizerFast

from pipeline.data.tokenizer import Tokenizer, tokenizer_differences
from pipeline.errors import ConfigError, IdentityError
from pipeline.models.causal import POSITION_KEYS, CausalModel, max_positions, refuse_longer
from pipeline.models.fingerprint import quick_fingerprint
from pipeline.models.loading import load_config, load_model, make_model
from pipeline.models.settings import StudentSettings
from pipeline.models.source import downloaded_before, is_hub_id, local_folder, model_folder


def load_student(settings: StudentSettings, tokenizer: Tokenizer, device: torch.device) -> CausalModel:
    """The student in float32 on `device`, with the vocabulary of the teacher's tokenizer.

    A student with another tokenizer is refused (IdentityError): the cached ids would mean something else to it.
    """
    if settings.config is None:
        refuse_other_tokenizer("student.model", settings, tokenizer)
        return load_existing(settings, tokenizer, device)
    begin_of_text_id = tokenizer.start_ids[0] if tokenizer.start_ids else None
    ids = (tokenizer.vocab_size, tokenizer.end_of_text_id)
    model = make_model(settings.config, *ids, settings.seed, begin_of_text_id)
    return CausalModel(model.to(device=device, dtype=torch.float32), tokenizer.vocab_size, section="student")


def load_existing(settings: StudentSettings, tokenizer: Tokenizer, device: torch.device) -> CausalModel:
    """The model of a folder or hub id in float32, where its tokenizer was compared before or is known."""
    assert settings.model is not None
    model = load_model(settings.model, settings.revision, torch.float32, device, settings.trust_remote_code)
    return CausalModel(model, tokenizer.vocab_size, section="student")


def refuse_other_tokenizer(key: str, settings: StudentSettings, tokenizer: Tokenizer) -> None:
    """IdentityError where the model in settings.model, named by the config's `key`, has another tokenizer.

    transformers cuts texts for some architectures in a way of its own, whatever their tokenizer.json says, and then
    the folder of one and the same tokenizer seems to hold two. It is the teacher's if either reading is.
    """
    assert settings.model is not None
    folder = model_folder(settings.model, settings.revision, settings.trust_remote_code)
    local = Path(settings.model).expanduser().is_dir()
    if local and not any(folder.glob("tokenizer*")):
        return  # weights alone: the size of their vocabulary is checked when the head is built
    _refuse_other_tokenizer(key, settings, str(folder) if local else settings.model, tokenizer)


def _refuse_other_tokenizer(key: str, settings: StudentSettings, reference: str, tokenizer: Tokenizer) -> None:
    try:
        own = Tokenizer.load(reference, settings.revision, settings.trust_remote_code).within(tokenizer.vocab_size)
    except ConfigError as error:
        raise ConfigError(f"{key} {settings.model}: its tokenizer cannot be compared. {error}") from error
    expected = tokenizer.fingerprint()
    differences = tokenizer_differences(expected, own.fingerprint())
    if differences and not _is_described(reference, settings.revision, expected):
        raise IdentityError(
            f"{key} {settings.model}: its tokenizer is not the teacher's, so the cached ids would mean other text to "
            "it. Choose a model of the same family, or a fresh student (student.config).\n"
            "Differences, teacher -> this model:\n" + "\n".join(differences)
        )


def leaks_documents(causal: CausalModel, packing: str) -> bool:
    """Whether the model would let a document see the one before it in sequences that are packed so."""
    return packing == "packed" and not causal.isolates_documents()


def positions_key(settings: StudentSettings) -> str | None:
    """The key that says how long the sequences of a fresh student may be; None for an existing one: it is as it is."""
    if settings.config is None:
        return None
    default = AutoConfig.for_model(settings.config["model_type"])
    given = [key for key in POSITION_KEYS if key in settings.config]  # one key may have two names
    return next((f"student.config.{key}" for key in (*given, *POSITION_KEYS) if hasattr(default, key)), None)


def refuse_short(settings: StudentSettings, num_positions: int, config: Any | None = None) -> None:
    """ConfigError where a fresh student cannot be made, or sequences are longer than the student is made for.

    No weights are needed: the `config`, where it is not given, is made of the student's block, or read of an existing
    student that is here. One that is not here yet is met when it is loaded.
    """
    config = _config_of(settings) if config is None else config
    if config is None:
        return
    key = positions_key(settings)
    longer = f"Set {key} to {num_positions:,} or more." if key else ""
    other = f"Choose another student, or make the cache with data.sequence_length: {max_positions(config)} or less."
    refuse_longer(num_positions, config, longer or other)


def refuse_leaks(causal: CausalModel, settings: StudentSettings, sequence_length: int, packing: str) -> None:
    """ConfigError where the cached sequences are too long for the student, or it would mix the documents in them."""
    refuse_short(settings, sequence_length, causal.model.config)
    if leaks_documents(causal, packing):
        raise ConfigError(
            f"student: {causal.architecture} models let a document see the one before it in a packed sequence, and "
            "this cache is packed. Choose another student, or make the cache with data.packing: one_document."
        )


def refuse_misfit(
    settings: StudentSettings, tokenizer: Tokenizer, teacher: CausalModel, sequence_length: int, packing: str
) -> None:
    """Refuse a student that could not learn from a cache which is about to be made, or all of it would be in vain.

    IdentityError for one with another tokenizer, ConfigError for one that would mix documents in sequences packed so. A
    student that is not here yet is met when it is loaded; of a hub id the tokenizer alone is fetched, where the hub
    gives it.
    """
    config = _config_of(settings)
    if settings.model is not None and config is not None:
        refuse_other_tokenizer("student.model", settings, tokenizer)
    elif settings.model is not None and is_hub_id(settings.model):
        with contextlib.suppress(ConfigError):
            _refuse_other_tokenizer("student.model", settings, settings.model, tokenizer)
    if config is not None and packing == "packed" and config.model_type != teacher.model.config.model_type:
        refuse_leaks(load_student(settings, tokenizer, torch.device("cpu")), settings, sequence_length, packing)


def recompute_activations(causal: CausalModel) -> None:
    """Keep few activations for the backward pass and compute the others again: less memory, a third slower."""
    model = causal.model
    if not model.supports_gradient_checkpointing:
        raise ConfigError(f"train.gradient_checkpointing: {causal.architecture} models cannot. Leave it off.")
    newer = getattr(model, "activation_checkpointing_enable", None)  # the older name warns where both are there
    (newer or model.gradient_checkpointing_enable)()


def drop_padding_rows(model: Any, num_effective: int) -> bool:
    """Cut a finished model's vocabulary to the ids that exist, in place; False where its matrices cannot be cut.

    Training and evaluation never see the rows beyond; a model that is used on its own would give them probability.
    """
    if _num_rows(model) > num_effective and _has_plain_matrices(model):
        with contextlib.suppress(NotImplementedError, AttributeError, TypeError, ValueError):  # told by the outcome
            model.resize_token_embeddings(num_effective)
    return _num_rows(model) == num_effective


def student_identity(settings: StudentSettings) -> dict[str, Any]:
    """What makes this student this one, without reading all of its weights."""
    if settings.config is not None:
        return {"config": settings.config, "seed": settings.seed}
    assert settings.model is not None
    return {"weights": quick_fingerprint(settings.model, settings.revision)}


def _config_of(settings: StudentSettings) -> Any | None:
    """The student's config without its weights; None where it is not here."""
    if settings.config is not None:
        with torch.device("meta"):
            return make_model(settings.config, vocab_size=1, end_of_text_id=0, seed=0).config
    assert settings.model is not None
    with contextlib.suppress(ConfigError):  # it may come later; train-student needs it, and says what is wrong with it
        folder = local_folder(settings.model) or downloaded_before(settings.model, settings.revision)
        if folder is not None:
            return load_config(str(folder), None, settings.trust_remote_code, with_weights=False)
    return None


def _num_rows(model: Any) -> int:
    """How many ids the model's own logits speak of."""
    output = model.get_output_embeddings()
    rows = 0 if output is None else int(output.weight.shape[0])
    return max(rows, int(model.config.get_text_config().vocab_size))


def _has_plain_matrices(model: Any) -> bool:
    """Whether input and output are an embedding and a linear layer with a row an id, which transformers can cut."""
    given, taken = model.get_input_embeddings(), model.get_output_embeddings()
    plain = isinstance(given, nn.Embedding) and isinstance(taken, nn.Linear)
    return plain and given.weight.shape[0] == taken.weight.shape[0]


def _is_described(reference: str, revision: str | None, expected: dict[str, Any]) -> bool:
    """Whether the tokenizer.json, as it is written, describes the tokenizer with the fingerprint `expected`."""
    try:
        fast = PreTrainedTokenizerFast.from_pretrained(reference, revision=revision)
        plain = Tokenizer(fast, reference).within(expected["vocab_size"])
    except Exception:  # no tokenizer.json, or a damaged one: there is no second reading
        return False
    return not tokenizer_differences(expected, plain.fingerprint())
