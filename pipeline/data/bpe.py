"""A byte-level BPE tokenizer trained on the spot, for the embedded default and for fresh pairs of models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers

from pipeline import files
from pipeline.console import warn_once
from pipeline.errors import ConfigError

END_OF_TEXT = "<|endoftext|>"
_MIN_VOCAB_SIZE = 257  # every byte, and the end of a text


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Learn `vocab_size` tokens from `texts` and publish them as a folder AutoTokenizer.from_pretrained loads.

    The same texts give the same bytes. Byte-pair merges on UTF-8 bytes (Sennrich et al. 2016; Radford et al. 2019).
    """
    if vocab_size < _MIN_VOCAB_SIZE:
        raise ConfigError(
            f"demo.vocab_size: expected at least {_MIN_VOCAB_SIZE} (every byte, and the end of a text), "
            f"found {vocab_size}"
        )
    model = _learn(texts, vocab_size)
    if (found := model.get_vocab_size()) < vocab_size:
        warn_once(f"the texts are too few for {vocab_size:,} tokens; the tokenizer has {found:,}")
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }

    def fill(staging: Path) -> None:
        files.write_file(staging / "tokenizer.json", model.to_str(pretty=True).encode())
        files.write_json(staging / "tokenizer_config.json", settings)

    files.publish_folder(folder, fill)


def _learn(texts: Iterable[str], vocab_size: int) -> Any:
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    return learner
