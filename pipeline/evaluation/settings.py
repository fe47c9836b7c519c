"""What the `eval` section of a config may say."""

from __future__ import annotations

from pipeline.config import Section, free


class EvalSettings(Section):
    """What the student is measured on, and what it is set beside."""

    baselines: dict[str, str] = free({}, "name -> folder of a model with the same tokenizer")
    teacher: str | None = free(None, "a teacher folder or hub id: gives the exact KL beside the cached lower bound")
    max_sequences: int | None = free(None, "validation sequences to use; absent: all", ge=1)
    batch_size: int = free(8, "sequences a forward pass", ge=1)
    sample_prompts: list[str] = free([], "texts to continue; absent: beginnings of validation sequences")
    sample_tokens: int = free(64, "tokens to write for each prompt; 0 writes none", ge=0)
