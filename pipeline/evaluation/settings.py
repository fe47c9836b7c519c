"""What the `eval` section of a config may say."""

from __future__ import annotations

import pydantic

from pipeline.config import Place, Section, free

TEACHER, AT_THE_START, STUDENT, AS_EXPORTED = "teacher", "student at the start", "student", "student, as exported"
_TAKEN = (TEACHER, AT_THE_START, STUDENT, AS_EXPORTED, "student (raw)", "student (EMA)")


class EvalSettings(Section):
    """What the student is measured on, and what it is set beside."""

    baselines: dict[str, Place] = free({}, "name -> folder of a model with the same tokenizer")
    teacher: Place | None = free(None, "the teacher's folder or hub id, for the exact KL beside the cached lower bound")
    max_sequences: int | None = free(None, "validation sequences to use; absent: all", ge=1)
    batch_size: int = free(8, "sequences a forward pass", ge=1)
    sample_prompts: list[str] = free([], "texts to continue; absent: beginnings of validation sequences")
    sample_tokens: int = free(64, "tokens to write for each prompt; 0 writes none", ge=0)

    @pydantic.field_validator("baselines")
    @classmethod
    def _have_names_of_their_own(cls, baselines: dict[str, str]) -> dict[str, str]:
        for name in baselines:
            if not name.strip() or name.strip() in _TAKEN:
                raise ValueError(f"{name!r} cannot name a baseline: expected a name other than {', '.join(_TAKEN)}")
        return baselines
