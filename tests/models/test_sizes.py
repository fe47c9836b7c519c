"""A model's size from its config alone is that of the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.models.sizes import size_of_block, size_of_folder
from tests import tiny


@pytest.mark.parametrize("model_type", sorted(tiny.ARCHITECTURES))
def test_a_folder_without_weights_says_how_large_its_model_is(model_type: str, tmp_path: Path) -> None:
    model = tiny.make_model(model_type)
    model.config.save_pretrained(str(tmp_path))
    found = size_of_folder(tmp_path)
    assert found.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (found.vocab_size, found.matrix) == (tiny.VOCAB_SIZE, model.get_output_embeddings().weight.numel())


@pytest.mark.parametrize("tied", [True, False])
def test_a_block_says_how_large_the_model_made_of_it_will_be(tied: bool) -> None:
    block = tiny.ARCHITECTURES["llama"] | {"model_type": "llama", "tie_word_embeddings": tied}
    model = tiny.make_model(tie_word_embeddings=tied)
    found = size_of_block(block, tiny.VOCAB_SIZE)
    assert found.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert size_of_block(block | {"vocab_size": 512}, tiny.VOCAB_SIZE).vocab_size == 512


def test_a_model_of_any_size_takes_no_memory() -> None:
    large = {"model_type": "llama", "hidden_size": 16_384, "num_hidden_layers": 126, "num_attention_heads": 128}
    assert size_of_block(large | {"intermediate_size": 53_248}, 128_256).num_parameters > 4e11


def test_a_config_that_makes_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="its config cannot be read"):
        size_of_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip_vision_model"}')
    with pytest.raises(ConfigError, match="no causal language model can be made"):
        size_of_folder(tmp_path)
