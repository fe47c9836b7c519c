"""The learned router: a linear gate over a position's signals, a softmax over the parts that have a weight.

    g = softmax( W·x + b ),    r_k = P·g_k            P parts; W = b = 0 at first, which is r = 1

x are the signals, squashed into [−1, 1]: h/(1 + h) of an entropy h, exp(l_t), m, gap/(1 + |gap|), agrees. The gate's
own objective, over the scored positions of a step, from their losses ℓ_nk and running means m_k of earlier steps, is

    J = mean_n [ Σ_k g_nk·clip( ℓ_nk/m_k, ±C ) + λ·KL( g_n ‖ uniform ) ]        C = MOST, λ = PULL

So where a part is worse than it usually is, relative to the others, less is asked of it and more of the others. Three
things keep the gate from collapsing onto the easiest part. Each ℓ_k/m_k is 1 on average, so no part is easier than
another by being smaller: the best gate that ignores its signals is near uniform, however small a part is. The best
gate of all has g ∝ exp( −E[clip(ℓ_k/m_k)|x]/λ ), and no g_k below 1/(1 + (P − 1)·e^(2C/λ)), of losses that are not
negative none below 1/(1 + (P − 1)·e^(C/λ)). And the loss sees r_k over its own running mean (routing.Normalised). (A
softmax gate trained beside the model: Shazeer et al. 2017, arXiv:1701.06538, section 4, who balance it by a loss on its
importance.)

The student's gradient does not flow into the gate, nor the gate's into the student. Letters: **n** positions, **F**
signals, **P** parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.distill.loss.routing import PARTS, Signal
from pipeline.distill.optimization.optimizer import load_optimizer_tensors, optimizer_tensors
from pipeline.distill.settings import Part

LEARNING_RATE = 0.01
PULL = 1.0
"""λ, of the pull towards uniform, in units of an average loss"""
MOST = 4.0
"""C: what a position's loss counts for at most, in units of an average one"""


class Gate(nn.Module):
    """The `learned` router, its parameters and its Adam; `parts` are those it chooses among."""

    def __init__(self, parts: Sequence[Part], device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.weight_PF = nn.Parameter(torch.zeros(len(self.parts), len(Signal), device=device))
        self.bias_P = nn.Parameter(torch.zeros(len(self.parts), device=device))
        self._adam = torch.optim.Adam(self.parameters(), lr=LEARNING_RATE, fused=True)

    @property
    def asks_entropy(self) -> bool:
        """The student's entropy is one of its features."""
        return True

    @torch.no_grad()
    def route(self, signals_n6: Tensor) -> Tensor:
        """P·g of its parts, 1 of the others."""
        given_nP = len(self.parts) * self._log_shares(signals_n6).exp()
        columns = dict(zip(self.parts, given_nP.unbind(dim=1), strict=True))
        return torch.stack([columns.get(part, torch.ones_like(given_nP[:, 0])) for part in PARTS], dim=1)

    def study(self, signals_n6: Tensor, losses_n: Mapping[Part, Tensor], magnitudes: Mapping[Part, float]) -> None:
        """Add a micro-batch to the gradient of Σ_n J_n; `magnitudes` are the m_k, which must be above 0."""
        relative_nP = torch.stack([losses_n[part] / magnitudes[part] for part in self.parts], dim=1)
        with torch.enable_grad():
            log_g_nP = self._log_shares(signals_n6)
            pull_nP = PULL * (log_g_nP + math.log(len(self.parts)))
            (log_g_nP.exp() * (relative_nP.clamp(-MOST, MOST) + pull_nP)).sum().backward()  # type: ignore[no-untyped-call]

    def gradient_norm(self) -> Tensor | None:
        """Of what was studied since the last step, before its mean is taken; None where nothing was."""
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        return torch.stack([gradient.norm() for gradient in gradients]).norm() if gradients else None

    def learn(self, num_positions: int) -> None:
        """One step of Adam on the mean over `num_positions` studied since the last; nothing where none were."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(num_positions)
        self._adam.step()
        self.forget()

    def forget(self) -> None:
        """Let go of what was studied since the last step."""
        self._adam.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and optimizer state, for a checkpoint."""
        return {**self.state_dict(), **optimizer_tensors(self._adam, self)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        own = self.state_dict().keys()
        self.load_state_dict({name: tensor for name, tensor in tensors.items() if name in own})
        rest = {name: tensor for name, tensor in tensors.items() if name not in own}
        load_optimizer_tensors(self._adam, self, rest)

    def _log_shares(self, signals_n6: Tensor) -> Tensor:
        return (_squashed(signals_n6) @ self.weight_PF.T + self.bias_P).log_softmax(dim=1)


def _squashed(signals_n6: Tensor) -> Tensor:
    """The signals within [−1, 1], as the gate reads them."""
    squashed_n6 = signals_n6 / (1.0 + signals_n6.abs())
    squashed_n6[:, Signal.TEACHER_LABEL] = signals_n6[:, Signal.TEACHER_LABEL].exp()
    for share in (Signal.HEAD_MASS, Signal.AGREES):
        squashed_n6[:, share] = signals_n6[:, share]
    return squashed_n6
