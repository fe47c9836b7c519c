"""Keys are repeated where only then a fused kernel takes them: before flash attention, and in float32 on every card."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.integrations import sdpa_attention

from pipeline.models import attention
from pipeline.models.attention import keep_fused_attention
from pipeline.models.causal import CausalModel
from pipeline.models.loading import load_model
from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture
def llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CausalModel:
    """Four query heads that share two key heads; what is patched below is put back after the test."""
    monkeypatch.setattr(sdpa_attention, "use_gqa_in_sdpa", sdpa_attention.use_gqa_in_sdpa)
    tiny.save_model(tmp_path, "llama")
    return CausalModel(load_model(str(tmp_path), None, torch.float32, CPU), tiny.VOCAB_SIZE)


def attended(causal: CausalModel, position_ids_BT: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """Hidden states; key heads that PyTorch's attention was given, whether it was to share them, and had a mask."""
    calls: list[tuple[int, bool, bool]] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(query: Any, key: Any, value: Any, **options: Any) -> Any:
        calls.append((key.shape[1], bool(options.get("enable_gqa")), options.get("attn_mask") is not None))
        return real(query, key, value, **options)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        ids_BT = torch.arange(position_ids_BT.numel()).view(position_ids_BT.shape) % 250
        hidden_BTD = causal.hidden(ids_BT, position_ids_BT)
    assert len(calls) == 2
    assert calls[0] == calls[1]
    return hidden_BTD, *calls[0]


ONE_DOCUMENT = torch.arange(16).repeat(3, 1)
TWO_DOCUMENTS = torch.arange(8).repeat(3, 2)


@pytest.mark.parametrize(
    ("capability", "dtype", "autocast", "key_heads"),
    [
        ((6, 0), torch.float16, None, 4),
        ((7, 5), torch.float16, None, 4),
        ((7, 5), torch.float32, torch.float16, 4),
        ((8, 0), torch.bfloat16, None, 2),
        ((9, 0), torch.float16, None, 2),
        ((9, 0), torch.float32, None, 4),
        ((9, 0), torch.float32, torch.bfloat16, 2),
    ],
)
def test_a_batch_of_single_documents_on_a_card(
    capability: tuple[int, int],
    dtype: torch.dtype,
    autocast: torch.dtype | None,
    key_heads: int,
    llama: CausalModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llama.model.to(dtype)
    with contextlib.nullcontext() if autocast is None else torch.autocast("cpu", autocast):
        before_BTD, *found = attended(llama, ONE_DOCUMENT, monkeypatch)
        assert found == [2, True, False]
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        for _ in range(2):  # once a model
            keep_fused_attention(torch.device("cuda"))
        after_BTD, *found = attended(llama, ONE_DOCUMENT, monkeypatch)
    assert found == [key_heads, key_heads == 2, False]
    tolerance = {} if (autocast or dtype) == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(after_BTD, before_BTD, **tolerance)


@pytest.mark.parametrize("given", [2, 3])
def test_what_transformers_says_counts_whatever_it_is_given(
    given: int, llama: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its function takes mask and keys, and in later versions the values too."""
    calls: list[int] = []

    def refuses(*arguments: Any) -> bool:
        calls.append(len(arguments))
        return False

    monkeypatch.setattr(attention, "_shares_in_transformers", refuses)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    keep_fused_attention(torch.device("cuda"))
    half = torch.zeros(1, 2, 3, 8, dtype=torch.bfloat16)
    assert not sdpa_attention.use_gqa_in_sdpa(*[None, half, half][:given])
    assert calls == [given]


def test_a_batch_with_two_documents_has_a_mask_and_repeated_keys_everywhere(
    llama: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attended(llama, TWO_DOCUMENTS, monkeypatch)[1:] == (4, False, True)


def test_a_cpu_is_left_as_it_is(llama: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_fused_attention(CPU)
    assert attended(llama, ONE_DOCUMENT, monkeypatch)[1:] == (2, True, False)
