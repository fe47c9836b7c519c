"""Tiny models, tokenizers and texts, made on the spot and saved as a user's would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCAB_SIZE = 300
END_OF_TEXT = "<|endoftext|>"

_LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "llama": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE | {"head_dim": 8},
    "gemma2": _LLAMA_LIKE | {"head_dim": 8, "final_logit_softcapping": 2.0},
    "mistral": _LLAMA_LIKE,
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 16,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    "phi3": _LLAMA_LIKE,
}


def save_tokenizer(folder: Path) -> Path:
    """A byte-level tokenizer: ids 0..255 are bytes, 256 ends a text, 257 and 258 frame chat turns."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in (END_OF_TEXT, "<|im_start|>", "<|im_end|>")]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(str(folder))
    return folder


def make_model(model_type: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A random model of one of the ARCHITECTURES, in float32, in eval mode."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": VOCAB_SIZE, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256}
    config = AutoConfig.for_model(model_type, **(sizes | ARCHITECTURES[model_type] | changes))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


def save_model(folder: Path, model_type: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """A folder as a user has it: config, safetensors, tokenizer."""
    make_model(model_type, seed, **changes).save_pretrained(str(folder))
    return save_tokenizer(folder)


def save_stranger(folder: Path) -> Path:
    """A model whose tokenizer has as many ids as that of the others, two of them the other way round."""
    path = save_model(folder) / "tokenizer.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = described["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(described), encoding="utf-8")
    return folder


def write_texts(folder: Path, count: int = 24, characters: int = 400) -> Path:
    """A folder of text files cut from the standard library's own source."""
    source = Path(json.__file__).with_name("decoder.py").read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        start = index * 97
        (folder / f"{index:03d}.txt").write_text(
            source[start : start + characters] + f"\n# {index}\n", encoding="utf-8"
        )
    return folder
