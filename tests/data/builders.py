"""Tokenizers of the kinds users bring, made on the spot and loaded as theirs would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PLAIN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
)
# Shows the reasoning of the last turn only, as some reasoning models do.
REWRITING_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}<think/>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# As Qwen3's: after the last question every turn keeps its reasoning, and the last turn has a place for it even where
# there is none; of earlier turns only the answer stays.
QWEN3_TEMPLATE = (
    "{%- set last = namespace(question=0) -%}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'user' -%}{%- set last.question = loop.index0 -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- for m in messages -%}"
    "{%- set parts = m.content.split('</think>') -%}"
    "{%- set answer = parts[-1].lstrip('\\n') -%}"
    "{%- set reasoning = parts[0].split('<think>')[-1].strip('\\n') if parts | length > 1 else '' -%}"
    "{{- '<|im_start|>' + m.role + '\\n' -}}"
    "{%- if m.role == 'assistant' and loop.index0 > last.question and (loop.last or reasoning) -%}"
    "{{- '<think>\\n' + reasoning + '\\n</think>\\n\\n' -}}{%- endif -%}"
    "{{- answer if m.role == 'assistant' else m.content -}}"
    "{%- for call in m.tool_calls or [] -%}{{- '<tool_call>' + call | tojson + '</tool_call>' -}}{%- endfor -%}"
    "{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def byte_level(normalizer: Any = None, begin: bool = False) -> Tokenizer:
    """Ids 0..255 are bytes; then the special tokens, of which the last begins a text if `begin`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return tokenizer


def composing() -> Tokenizer:
    """Byte-level behind NFC, as Qwen's: the text that is encoded is not always the text that came."""
    return byte_level(normalizers.NFC())


def pieces() -> Tokenizer:
    """SentencePiece-like, as Llama's: a space becomes ▁, one is put before the text, unknown characters are bytes."""
    spellings = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "s", "p", "▁a", "sp", "<|endoftext|>"]
    vocabulary = {spelling: index for index, spelling in enumerate(spellings)}
    merges = [("▁", "a"), ("s", "p")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def words() -> Tokenizer:
    """Whole words behind white space, with an unknown token: drops spaces, and is not byte-level."""
    vocabulary = {word: index for index, word in enumerate(["<unk>", "the", "cat", "sat", "größe", "<|endoftext|>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, template: str | None = None, **special: str) -> Path:
    """The folder `save_pretrained` leaves."""
    special = {"eos_token": "<|endoftext|>"} | special
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = template
    fast.save_pretrained(str(folder))
    return folder


def write_lines(path: Path, rows: list[Any]) -> Path:
    """A JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
