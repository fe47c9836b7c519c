"""What the `teacher` and `student` sections of a config may say."""

from __future__ import annotations

import json
from typing import Any, Literal, Self

import pydantic

from pipeline.config import Place, Section, free, identity, schedule

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]


class TeacherSettings(Section):
    """The model whose predictions are cached."""

    model: Place = free(doc="a folder with config.json and safetensors, or a hub id")
    revision: str | None = free(None, "hub: commit or tag; absent: the plan's commit, once there is a plan")
    dtype: Dtype = identity("auto", "auto: float32 on CPU, bfloat16 from capability 8.0, float16 below")
    device: Device = free("auto", "auto: the card where there is one it can use, else the CPU; cuda, cpu")
    workers: int | None = free(
        None, "processes that share the shards, each with a teacher in memory; absent: one a card, on the CPU one", ge=1
    )
    trust_remote_code: bool = free(False, "run code that comes with the model; leave it off")


class StudentSettings(Section):
    """The model that is trained: an existing one, or a fresh one made from a config block."""

    model: Place | None = schedule(None, "a folder with config.json and safetensors, or a hub id")
    revision: str | None = schedule(None, "hub: commit or tag; absent: the commit that the training began with")
    config: dict[str, Any] | None = schedule(None, "random init: model_type and its sizes; vocabulary is filled in")
    seed: int = schedule(0, "of the random init", ge=0, lt=2**63)
    device: Device = free("auto", "auto: the card where there is one it can use, else the CPU; cuda, cpu")
    trust_remote_code: bool = free(False, "run code that comes with the model; leave it off")

    def unused(self) -> dict[str, str]:
        """Keys that are set, and of which there is no use, each with the reason."""
        if self.model is None:
            return {} if self.revision is None else {"revision": "student.config makes a fresh model"}
        return {} if self.seed == type(self).model_fields["seed"].default else {"seed": "student.model has its weights"}

    @pydantic.model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.model is None) == (self.config is None):
            raise ValueError("give either student.model (a folder or hub id) or student.config (a fresh model)")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("student.config needs model_type, such as llama")
        try:
            json.dumps(self.config, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"student.config: every number must be finite ({error})") from error
        return self
