"""Norms of a step's gradients, as a whole and by the kind of weight, and their clipping."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

GROUPS = ("embedding", "attention", "mlp", "norm", "head", "other")
"""Kinds of weights whose gradients are looked at apart; an output matrix that is tied counts as embedding"""
TOTAL = "gradient_norm"
_NAMES = (
    ("norm", re.compile(r"norm|(?:^|\.)ln_")),
    ("attention", re.compile(r"attn|attention")),
    ("mlp", re.compile(r"mlp|ffn|feed_forward|expert|(?:^|\.)fc\d")),
    ("embedding", re.compile(r"embed|(?:^|\.)w[tp]e\.")),
)


def group_of(name: str) -> str:
    """The group of a parameter by its name, where it is neither the input nor the output matrix."""
    return next((group for group, pattern in _NAMES if pattern.search(name)), "other")


class GradientNorms:
    """Measures and clips the gradients of one model."""

    def __init__(self, model: nn.Module) -> None:
        ends = {id(end.weight): group for group, end in _ends(model).items() if hasattr(end, "weight")}
        self._parameters = [
            (ends.get(id(parameter), group_of(name)), parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]

    @torch.no_grad()
    def clip(self, clip_norm: float) -> dict[str, Tensor]:
        """Scale the gradients so that their norm is at most `clip_norm` (0: leave them), by Pascanu, Mikolov and
        Bengio 2013 (arXiv:1211.5063, algorithm 1).

        Returns 2-norms before it on their device: `gradient_norm` of all, `gradient_norm_<group>` of each group there
        is. The first is not finite where one gradient is not, and then gradients are of no use.
        """
        found = [(group, parameter) for group, parameter in self._parameters if parameter.grad is not None]
        norms = torch._foreach_norm([parameter.grad for _, parameter in found if parameter.grad is not None])
        total = _together(norms)
        if clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_([parameter for _, parameter in found], clip_norm, total)
        by_group = {TOTAL: total}
        for group in GROUPS:
            own = [norm for (other, _), norm in zip(found, norms, strict=True) if other == group]
            if own:
                by_group[f"{TOTAL}_{group}"] = _together(own)
        return by_group


def clipped(norm: float, clip_norm: float) -> float:
    """The norm after clipping, of a norm before it."""
    return norm * min(1.0, clip_norm / (norm + 1e-6)) if clip_norm > 0 else norm  # torch adds this 1e-6 too


def _together(norms: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    total: Tensor = torch.linalg.vector_norm(torch.stack(list(norms)))
    return total


def _ends(model: nn.Module) -> dict[str, nn.Module]:
    """The modules with the output and the input matrix; of one that is both, the input counts."""
    ends = {"head": "get_output_embeddings", "embedding": "get_input_embeddings"}
    found = {group: getattr(model, name)() for group, name in ends.items() if hasattr(model, name)}
    return {group: module for group, module in found.items() if module is not None}
