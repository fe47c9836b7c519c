"""Norms of gradients by kind of weight, and clipping, against float64 and torch's own."""

from __future__ import annotations

import copy
from collections import defaultdict

import numpy as np
import pytest
import torch

from pipeline.distill.optimization.gradient_norms import GROUPS, GradientNorms, clipped
from tests import tiny

EXPECTED = {
    "wte.weight": "embedding", "wpe.weight": "embedding", "ln_1.bias": "norm", "ln_f.weight": "norm",
    "c_attn.weight": "attention", "mlp.c_fc.weight": "mlp", "embed_tokens.weight": "embedding",
    "embed_positions.weight": "embedding", "q_proj.weight": "attention", "self_attn_layer_norm.weight": "norm",
    "q_norm.weight": "norm", "fc1.weight": "mlp", "gate_proj.weight": "mlp", "gate_up_proj.weight": "mlp",
    "input_layernorm.weight": "norm", "post_feedforward_layernorm.weight": "norm", "project_in.weight": "other",
    "project_out.weight": "other", "k_norm.weight": "norm",
    "embed_in.weight": "embedding", "embed_out.weight": "head", "dense_h_to_4h.weight": "mlp",
    "query_key_value.bias": "attention", "qkv_proj.weight": "attention",
}  # fmt: skip


def with_gradients(model_type: str, seed: int = 0, **changes: object) -> torch.nn.Module:
    model: torch.nn.Module = tiny.make_model(model_type, **changes)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("model_type", sorted(tiny.ARCHITECTURES))
def test_groups_of_every_architecture(model_type: str) -> None:
    """Each group's norm in float64 over the weights that are listed for it here, by the end of their names."""
    model = with_gradients(model_type)
    squares: dict[str, float] = defaultdict(float)
    for name, parameter in model.named_parameters():
        if name == "lm_head.weight":
            group = "head"
        else:
            known = [group for end, group in EXPECTED.items() if name.endswith(end)]
            group = known[0] if known else next(g for part, g in _PARTS.items() if part in name)
        assert parameter.grad is not None
        squares[group] += float((parameter.grad.double() ** 2).sum())
    found = {name: float(norm) for name, norm in GradientNorms(model).clip(0.0).items()}
    assert found.pop("gradient_norm") == pytest.approx(sum(squares.values()) ** 0.5, rel=1e-6)
    expected = {f"gradient_norm_{group}": square**0.5 for group, square in squares.items()}
    assert found == pytest.approx(expected, rel=1e-6)
    assert {"attention", "mlp", "norm", "embedding"} <= squares.keys() <= set(GROUPS)


_PARTS = {".self_attn.": "attention", ".attn.": "attention", ".attention.": "attention", ".mlp.": "mlp", ".fc": "mlp",
          "layer_norm": "norm", "layernorm": "norm", "norm.weight": "norm", "ln_": "norm"}  # fmt: skip


def test_a_tied_matrix_counts_once_as_embedding() -> None:
    model = with_gradients("llama", tie_word_embeddings=True)
    found = GradientNorms(model).clip(0.0)
    assert "gradient_norm_head" not in found
    gradient = model.get_input_embeddings().weight.grad  # type: ignore[operator]
    assert float(found["gradient_norm_embedding"]) == pytest.approx(float(gradient.double().norm()), rel=1e-6)


@pytest.mark.parametrize("clip_norm", [0.0, 1.0, 1e6])
def test_clips_as_torch_does_and_tells_the_norm_after(clip_norm: float) -> None:
    ours = with_gradients("llama")
    theirs = copy.deepcopy(ours)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        other.grad = mine.grad.clone()
    norm = float(GradientNorms(ours).clip(clip_norm)["gradient_norm"])
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm or float("inf"))
    assert norm == float(expected)
    squares = 0.0
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.equal(mine.grad, other.grad)
        squares += float((mine.grad.double() ** 2).sum())
    assert clipped(norm, clip_norm) == pytest.approx(np.sqrt(squares), rel=1e-5)


def test_one_gradient_that_is_not_finite_shows_in_its_group_alone() -> None:
    model = with_gradients("llama")
    model.get_output_embeddings().weight.grad[0, 0] = float("inf")  # type: ignore[operator]
    found = {name: float(norm) for name, norm in GradientNorms(model).clip(1.0).items()}
    assert [name for name, norm in found.items() if not np.isfinite(norm)] == ["gradient_norm", "gradient_norm_head"]


def test_weights_without_a_gradient_are_left_out() -> None:
    model = with_gradients("llama")
    for parameter in model.parameters():
        parameter.grad = None
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    embedding.grad = torch.ones_like(embedding)
    found = GradientNorms(model).clip(0.0)
    assert sorted(found) == ["gradient_norm", "gradient_norm_embedding"]
    assert float(found["gradient_norm"]) == pytest.approx(embedding.numel() ** 0.5)
