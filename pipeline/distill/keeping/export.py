"""student/model: a folder that `from_pretrained` loads without this project, with a model card that says its origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.commits import COMMIT, check_commit, write_commit
from pipeline.console import warn_once
from pipeline.data.tokenizer import Tokenizer, tokenizer_differences
from pipeline.distill.keeping.checkpoint import Checkpoint
from pipeline.errors import DamagedDataError, IncompleteInputError
from pipeline.models.causal import max_positions
from pipeline.models.loading import save_model
from pipeline.models.student import drop_padding_rows

_CARD = "README.md"
_PADDED = """
## Ids that stand for nothing

The tokenizer has {num_ids} ids, and this model has logits for more. They were never trained: set
`logits[..., {num_ids}:]` to minus infinity before a softmax or a choice.
"""


def export_model(folder: Path, model: Any, tokenizer: Tokenizer, card: str) -> None:
    """Replace `folder` by the model as it is now, its tokenizer and its card; readers see the old or the new.

    The model's vocabulary is cut to the tokenizer's ids, in place: export it last.
    """
    num_ids = tokenizer.vocab_size
    if not drop_padding_rows(model, num_ids):
        warn_once(
            f"{folder}: the matrices of {model.config.model_type} models cannot be cut to the {num_ids:,} ids of the "
            "tokenizer. The model gives probability to ids beyond them, which stand for nothing; its card says so."
        )
        card += _PADDED.format(num_ids=num_ids)

    def fill(staging: Path) -> None:
        save_model(model, staging)
        tokenizer.save_beside(staging, max_positions(model.config))
        # The card is left out: it is for its owner to write on.
        write_commit(staging, {path.name: files.digest_file(path) for path in sorted(staging.iterdir())})
        (staging / _CARD).write_bytes(card.encode())

    files.publish_folder(folder, fill)
    if tokenizer_differences(
        tokenizer.fingerprint(), Tokenizer.load(folder).within(tokenizer.vocab_size).fingerprint()
    ):
        warn_once(
            f"{folder}: transformers cuts texts for {model.config.model_type} models in a way of its own, whatever "
            "their tokenizer.json says, and so AutoTokenizer does not give the teacher's ids here. Load the tokenizer "
            "with PreTrainedTokenizerFast.from_pretrained, which does."
        )


def is_exported(folder: Path) -> bool:
    """Whether a model is in `folder`, as it was exported; one that was damaged is told, and is none."""
    if not (folder / COMMIT).is_file():
        return folder.is_dir()  # by a version that wrote none
    try:
        check_commit(folder)
    except DamagedDataError as error:
        warn_once(f"the student is exported again: {error}")
        return False
    return True


def refuse_to_replace(folder: Path, checkpoint: Checkpoint | None) -> None:
    """IncompleteInputError where a training without a checkpoint would begin anew and replace a finished student."""
    if checkpoint is None and is_exported(folder):
        raise IncompleteInputError(
            f"{folder}: a finished student is here, and no whole checkpoint of its training is beside it or in "
            "train.roots: train-student would begin anew and replace it. For it to be used there is nothing to do. To "
            "go on, bring its checkpoints back or name their folder in train.roots; to train anew, choose another "
            f"--run-dir, or remove {folder.parent}."
        )


def model_card(facts: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """The README of an exported model: what it is, where it comes from, how to load it."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    config = "\n".join(f"| `{name}` | `{value}` |" for name, value in settings.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [knowledge-distillation]
---

# A distilled student

Trained by sad-pipeline from a cache of its teacher's predictions.

| | |
| --- | --- |
{rows}

```python
from transformers import pipeline

print(pipeline("text-generation", "path/to/this/folder")("Once")[0]["generated_text"])
```

## Settings it was trained with

| key | value |
| --- | --- |
{config}
"""
