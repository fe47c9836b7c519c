"""The tensors of a student by name: what a checkpoint holds and what is put back."""

from __future__ import annotations

import torch

from pipeline.config import differences
from pipeline.distill.keeping.checkpoint import Tensors
from pipeline.errors import IdentityError

_MAX_SHOWN = 4


def unique_tensors(model: torch.nn.Module) -> Tensors:
    """Parameters and persistent buffers by name, each storage once (tied weights have one name)."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


def load_weights(model: torch.nn.Module, tensors: Tensors) -> None:
    """Put weights back by name, in place, tied ones through their one name; IdentityError for another model's."""
    own = unique_tensors(model)
    shapes, found = ({name: list(tensor.shape) for name, tensor in group.items()} for group in (own, tensors))
    if odd := differences(shapes, found):
        raise IdentityError(
            f"these weights are not of this student; {len(odd)} tensors differ, expected -> found:\n"
            + "\n".join(odd[:_MAX_SHOWN])
            + "\nCheck student.model or student.config against the run the weights are from."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
