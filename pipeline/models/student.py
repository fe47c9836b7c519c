"""The student as it begins: an existing model, or a fresh one made from a config block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.cache.plan import Plan
from pipeline.data.tokenizer import Tokenizer, tokenizer_differences
from pipeline.errors import ConfigError, IdentityError
from pipeline.models.causal import CausalModel
from pipeline.models.fingerprint import quick_fingerprint
from pipeline.models.loading import load_model, make_model
from pipeline.models.settings import StudentSettings


def load_student(settings: StudentSettings, tokenizer: Tokenizer, device: torch.device) -> CausalModel:
    """The student in float32 on `device`, with the vocabulary of the teacher's tokenizer.

    A student with another tokenizer is refused (IdentityError): the cached ids would mean something else to it.
    """
    if settings.config is not None:
        model = make_model(settings.config, tokenizer.vocab_size, tokenizer.end_of_text_id, settings.seed)
        model = model.to(device=device, dtype=torch.float32)
    else:
        assert settings.model is not None
        _refuse_other_tokenizer(settings, tokenizer)
        model = load_model(settings.model, settings.revision, torch.float32, device, settings.trust_remote_code)
    return CausalModel(model, tokenizer.vocab_size, section="student")


def refuse_leaks(causal: CausalModel, plan: Plan) -> None:
    """ConfigError where the cached sequences are too long for the student, or it would mix the documents in them."""
    causal.check_length(plan.sequence_length)
    if plan.capture["packing"] == "packed" and not causal.isolates_documents():
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


def student_identity(settings: StudentSettings) -> dict[str, Any]:
    """What makes this student this one, without reading all of its weights."""
    if settings.config is not None:
        return {"config": settings.config, "seed": settings.seed}
    assert settings.model is not None
    return {"weights": quick_fingerprint(settings.model, settings.revision)}


def _refuse_other_tokenizer(settings: StudentSettings, tokenizer: Tokenizer) -> None:
    assert settings.model is not None
    folder = Path(settings.model)
    if folder.is_dir() and not any(folder.glob("tokenizer*")):
        return  # weights alone: the size of their vocabulary is checked when the head is built
    try:
        own = Tokenizer.load(settings.model, settings.revision, settings.trust_remote_code)
    except ConfigError as error:
        raise ConfigError(f"student.model {settings.model}: its tokenizer cannot be compared. {error}") from error
    if differences := tokenizer_differences(tokenizer.fingerprint(), own.fingerprint()):
        raise IdentityError(
            f"student.model {settings.model}: its tokenizer is not the teacher's, so the cached ids would mean other "
            "text to it. Choose a student of the same family, or a fresh one (student.config).\n"
            "Differences, teacher -> student:\n" + "\n".join(differences)
        )
