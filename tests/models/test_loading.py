"""Loading: whole checkpoints load, everything else is refused with what to do; fresh models are reproducible."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError
from pipeline.models.loading import load_model, make_model
from pipeline.models.settings import StudentSettings, TeacherSettings
from pipeline.models.student import load_student
from tests import tiny

CPU = torch.device("cpu")
LLAMA = {"model_type": "llama", **tiny._LLAMA_LIKE}


def _load(folder: Path | str, dtype: torch.dtype = torch.float32):
    return load_model(str(folder), None, dtype, CPU)


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama that a test may spoil."""
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_folder_loads_in_eval_mode_in_the_dtype_asked_for(llama_folder, dtype, capfd):
    model = _load(llama_folder, dtype)
    assert not model.training
    for name, weight in tiny.make_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.to(dtype)), name
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "opt"])
def test_tied_weights_load_and_stay_tied(model_type, tmp_path):
    model = _load(tiny.save_model(tmp_path, model_type))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_cap_on_attentions_logits_is_kept(tmp_path):
    """Gemma 2: fused attention has none, and some versions of transformers take it all the same."""
    folder = tiny.save_model(tmp_path, "gemma2", attn_logit_softcapping=0.5)
    weights = load_file(folder / "model.safetensors")
    sharp = {name: weight * (40 if "q_proj" in name else 1) for name, weight in weights.items()}
    save_file(sharp, folder / "model.safetensors", {"format": "pt"})
    ids = torch.arange(12)[None]
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        found, expected = _load(folder)(ids).logits, plain(ids).logits
        plain.config.attn_logit_softcapping = 1e6
        for layer in plain.model.layers:
            layer.self_attn.attn_logit_softcapping = 1e6
        uncapped = plain(ids).logits
    assert torch.equal(found, expected)
    assert (expected - uncapped).abs().max() > 1e-3


def test_a_model_in_several_files_loads(tmp_path):
    tiny.make_model().save_pretrained(str(tmp_path), max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(_load(tmp_path).lm_head.weight, tiny.make_model().lm_head.weight)


def test_weights_the_checkpoint_lacks_are_never_random(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"], weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights .*would be random\): lm_head\.weight, model\.norm\.weight"):
        _load(folder)


def test_weights_the_model_does_not_use_are_not_ignored(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.extra.weight": torch.ones(2)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"does not use: model\.extra\.weight"):
        _load(folder)


def test_masks_that_old_versions_saved_are_not_weights(folder):
    weights = load_file(folder / "model.safetensors")
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.0.attn.masked_bias": torch.ones(1),
    }
    save_file(weights | old, folder / "model.safetensors", {"format": "pt"})
    assert torch.equal(_load(folder).lm_head.weight, weights["lm_head.weight"])


def test_of_gpt2_only_the_mask_is_passed_over(tmp_path):
    """The mask was saved as `attn.bias`; `c_attn.bias` and `c_proj.bias` end alike and are learned."""
    weights = load_file(tiny.save_model(tmp_path, "gpt2") / "model.safetensors")
    old = {"transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4), "transformer.h.0.attn.masked_bias": torch.ones(1)}
    save_file(weights | old, tmp_path / "model.safetensors", {"format": "pt"})
    assert torch.equal(_load(tmp_path).transformer.wte.weight, weights["transformer.wte.weight"])
    lacking = {name: weight for name, weight in weights.items() if name != "transformer.h.0.attn.c_attn.bias"}
    save_file(lacking, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights .*: transformer\.h\.0\.attn\.c_attn\.bias\."):
        _load(tmp_path)


def test_weights_of_another_shape_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(ConfigError, match="model"):
        _load(folder)


def test_a_damaged_weight_file_is_refused(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ConfigError, match="cannot be loaded as a causal language model"):
        _load(folder)


def test_a_config_that_is_no_causal_model_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ConfigError, match="cannot be loaded as a causal language model"):
        _load(folder)


def test_code_that_comes_with_a_model_is_not_run(folder):
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "homemade",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('this code ran')\n")
    with pytest.raises(ConfigError, match="trust_remote_code: true"):
        _load(folder)


def test_code_that_comes_with_a_model_is_off_unless_it_is_asked_for():
    values = {"model": "a/b"}
    assert TeacherSettings(**values).trust_remote_code is False
    assert StudentSettings(**values).trust_remote_code is False


def test_code_that_comes_with_a_model_is_run_where_it_is_asked_for(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "homemade",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise ValueError('it ran')\n")
    with pytest.raises((ConfigError, ValueError)):
        load_model(str(folder), None, torch.float32, torch.device("cpu"), True)
    assert (tmp_path / "ran").exists()


def test_the_seed_of_a_fresh_student_is_the_configs(tokenizer_folder):
    tokenizer, device = Tokenizer.load(tokenizer_folder), torch.device("cpu")
    found = [load_student(StudentSettings(config=LLAMA, seed=seed), tokenizer, device).model for seed in (0, 5)]
    expected = [make_model(LLAMA, tokenizer.vocab_size, tokenizer.end_of_text_id, seed) for seed in (0, 5)]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert not torch.equal(found[0].lm_head.weight, found[1].lm_head.weight)


def test_a_fresh_model_is_the_same_for_the_same_seed_and_leaves_random_numbers_alone():
    torch.manual_seed(8)
    expected = torch.rand(1)
    torch.manual_seed(8)
    first, again, other = (make_model(LLAMA, 300, 256, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert (first.config.vocab_size, first.config.eos_token_id, first.config.bos_token_id) == (300, 256, 256)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("model_type", tiny.ARCHITECTURES)
def test_the_end_of_a_text_is_drawn_and_learns(model_type, tmp_path):
    """It is the padding id too, to which PyTorch gives no gradient; of a fresh model, and of one from a folder."""
    block = {"model_type": model_type, **tiny.ARCHITECTURES[model_type]}
    fresh = make_model(block, 300, 256, seed=0)
    assert (fresh.config.pad_token_id, fresh.generation_config.pad_token_id) == (256, 256)
    assert fresh.get_input_embeddings().weight[256].abs().sum() > 0
    given = tiny.save_model(tmp_path, model_type)
    loaded, before = _load(given), load_file(given / "model.safetensors")
    assert all(torch.equal(weight, before[name]) for name, weight in loaded.state_dict().items() if name in before)
    for model in (fresh, loaded):
        embedding = model.get_input_embeddings()
        embedded = embedding(torch.tensor([256]))
        embedded.backward(torch.ones_like(embedded))
        assert embedding.weight.grad[256].abs().sum() > 0


def test_a_fresh_models_vocabulary_may_be_padded_but_not_cut():
    padded = make_model(LLAMA | {"vocab_size": 320}, 300, 256, seed=0, begin_of_text_id=1)
    assert padded.lm_head.weight.shape[0] == 320
    assert padded.config.bos_token_id == 1
    for wrong in (299, "300"):
        with pytest.raises(ConfigError, match=rf"vocab_size: the tokenizer has 300 ids, found {wrong!r}"):
            make_model(LLAMA | {"vocab_size": wrong}, 300, 256, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hiden_size": 32}, r"no key 'hiden_size'; did you mean 'hidden_size'\?"),
        ({"model_type": "lama"}, r"unknown architecture 'lama'; did you mean 'llama'\?"),
        ({"model_type": "zzzzzz"}, "try llama"),
        ({"num_attention_heads": 5}, "no llama model can be made of it"),
        ({"hidden_size": "wide"}, "no llama model can be made of it"),
    ],
)
def test_a_config_block_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_model(LLAMA | changes, 300, 256, seed=0)
