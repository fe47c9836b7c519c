"""What the student is set beside, looked at before anything is measured: baselines, and the teacher at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from pipeline.cache.plan import Plan
from pipeline.config import differences
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError, IdentityError, MachineError
from pipeline.models import CausalModel
from pipeline.models.cache_identity import planned_teacher
from pipeline.models.causal import refuse_longer
from pipeline.models.device import choose_device, choose_dtype, device_name
from pipeline.models.fingerprint import quick_fingerprint, quick_part
from pipeline.models.loading import load_config, load_model
from pipeline.models.settings import StudentSettings, TeacherSettings
from pipeline.models.source import model_folder, weight_files
from pipeline.models.student import refuse_other_tokenizer


def baseline_origins(
    baselines: Mapping[str, str], settings: StudentSettings, tokenizer: Tokenizer, sequence_length: int
) -> dict[str, StudentSettings]:
    """Name -> where the baseline is loaded from; its files and its tokenizer are there and fit; it is long enough."""
    origins = {}
    for name, reference in baselines.items():
        origin = origin_of(settings, reference)
        with named(f"eval.baselines.{name}"):
            weight_files(model_folder(reference, None, settings.trust_remote_code))
            config = load_config(reference, None, settings.trust_remote_code)
            refuse_longer(sequence_length, config, "Leave it out: what is measured are this cache's sequences.")
        refuse_other_tokenizer(f"eval.baselines.{name}", origin, tokenizer)
        origins[name] = origin
    return origins


def origin_of(settings: StudentSettings, reference: str) -> StudentSettings:
    """Settings of a student that is loaded from another folder."""
    return settings.model_copy(update={"model": reference, "config": None, "revision": None})


def refuse_other_teacher(plan: Plan, settings: TeacherSettings) -> None:
    """IdentityError, with the difference, where this is not the model whose predictions the cache holds."""
    settings = planned_teacher(plan, settings)
    with named("eval.teacher"):
        found = quick_fingerprint(settings.model, settings.revision)
    if lines := differences({"teacher": quick_part(plan.identity["teacher"])}, {"teacher": found}):
        raise IdentityError(
            f"eval.teacher {settings.model}: is not the model whose predictions are cached, so a KL to it would be no "
            "KL to the teacher. Differences, cached -> found:\n"
            + "\n".join(lines)
            + "\nName the teacher of this cache, or leave eval.teacher out. A model to set beside the student belongs "
            "in eval.baselines."
        )


def teacher_at_hand(plan: Plan, settings: TeacherSettings) -> CausalModel:
    """The teacher of a cache, in the plan's precision, to be run beside what is measured.

    IdentityError where it is another model, MachineError where its device has no such precision.
    """
    refuse_other_teacher(plan, settings)
    settings, device, planned = planned_teacher(plan, settings), choose_device(settings.device), plan.capture["dtype"]
    try:
        dtype = choose_dtype(planned, device)
    except MachineError as error:
        raise MachineError(
            f"eval.teacher: the predictions that are cached are of a teacher in {planned}, and this card, a "
            f"{device_name(device)}, has none of its own. Set teacher.device to cpu, or leave eval.teacher out."
        ) from error
    model = load_model(settings.model, settings.revision, dtype, device, settings.trust_remote_code)
    return CausalModel(model, plan.vocab_size)


@contextlib.contextmanager
def named(key: str) -> Iterator[None]:
    """Say which key of the config a ConfigError is about."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
