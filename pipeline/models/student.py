"""The student as it begins: an existing model, or a fresh one made from a config block."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from pipeline.data.tokenizer import Tokenizer, tokenizer_differences
from pipeline.errors import ConfigError, IdentityError
from pipeline.models.causal import CausalModel
from pipeline.models.fingerprint import quick_fingerprint
from pipeline.models.loading import load_model, make_model
from pipeline.models.settings import StudentSettings
from pipeline.models.source import model_folder


def load_student(settings: StudentSettings, tokenizer: Tokenizer, device: torch.device) -> CausalModel:
    """The student in float32 on `device`, with the vocabulary of the teacher's tokenizer.

    A student with another tokenizer is refused (IdentityError): the cached ids would mean something else to it.
    """
    if settings.config is None:
        refuse_other_tokenizer("student.model", settings, tokenizer)
        return load_existing(settings, tokenizer, device)
    model = make_model(settings.config, tokenizer.vocab_size, tokenizer.end_of_text_id, settings.seed)
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
    reference = str(folder) if local else settings.model
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


def refuse_leaks(causal: CausalModel, sequence_length: int, packing: str) -> None:
    """ConfigError where the cached sequences are too long for the student, or it would mix the documents in them."""
    causal.check_length(sequence_length)
    if leaks_documents(causal, packing):
        raise ConfigError(
            f"student: {causal.architecture} models let a document see the one before it in a packed sequence, and "
            "this cache is packed. Choose another student, or make the cache with data.packing: one_document."
        )


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
