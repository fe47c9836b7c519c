"""AdamW with decay on matrices only, and its state by parameter name."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.distill.settings import TrainSettings
from pipeline.errors import DamagedDataError

_SEPARATOR = "/"


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019); norms and biases are not decayed."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=settings.adam_betas,
        eps=settings.adam_epsilon,
        fused=True,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """The optimizer's state as `<parameter name>/<state name>` -> tensor."""
    return {
        f"{name}{_SEPARATOR}{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, torch.Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave; every tensor must belong to a parameter of this model."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, state_name = key.rpartition(_SEPARATOR)
        if name not in parameters:
            raise DamagedDataError(f"the optimizer state holds {name!r}, which this student does not have")
        parameter = parameters[name]
        # AdamW keeps its step counter in float32 beside the parameter, on the parameter's device when fused.
        optimizer.state[parameter][state_name] = value.to(parameter.device)
