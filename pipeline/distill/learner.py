"""One optimizer step of the student: forward, chunked head loss, backward, clipping, AdamW, moving average."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Self

import torch
from torch import Tensor

from pipeline.console import warn_once
from pipeline.data.tokenizer import Tokenizer
from pipeline.distill.batching.batches import Batch
from pipeline.distill.guards.finite_guard import Suspects, tell
from pipeline.distill.guards.memory_guard import MemoryGuard
from pipeline.distill.keeping.checkpoint import Checkpoint, Tensors, checkpoint_bytes
from pipeline.distill.keeping.student_weights import load_weights, unique_tensors
from pipeline.distill.losses import LossParts, distillation_loss
from pipeline.distill.optimization.ema import WeightAverage
from pipeline.distill.optimization.gradient_norms import GradientNorms
from pipeline.distill.optimization.learning_rate import learning_rate_at
from pipeline.distill.optimization.optimizer import load_optimizer_tensors, make_optimizer, optimizer_tensors
from pipeline.distill.optimization.precision import autocast
from pipeline.distill.ranks import Ranks
from pipeline.distill.settings import TrainSettings
from pipeline.distill.step_result import StepResult, Trouble, add_up
from pipeline.distill.weighting.loss_weights import LossWeights, StepWeights
from pipeline.distill.weighting.temperature import temperature_at
from pipeline.models import CausalModel
from pipeline.models.device import seed_device
from pipeline.models.memory import is_out_of_memory
from pipeline.models.settings import StudentSettings
from pipeline.models.student import load_student, recompute_activations

_A_SEARCH = 4  # steps in a row that a scaler may need before it has its scale
_RANK_SEEDS = 2**40
"""From the random seeds of one rank to those of the next: more than there are steps"""


class Learner:
    """The student with everything that changes while it learns; `tensors` and `state` are all a resume needs.

    Weights and optimizer are float32; under `autocast_dtype` the forward pass runs in that type, with a gradient
    scaler where it is float16. A step in which a loss, a record or a gradient is not finite leaves weights, optimizer
    and average untouched and is counted. On a card, `memory` decides in which pieces a step is computed. With other
    `ranks` each learns from its share of a step, and takes the step of all.
    """

    def __init__(
        self, causal: CausalModel, settings: TrainSettings, num_steps: int, autocast_dtype: torch.dtype
    ) -> None:
        self.causal, self.settings, self.num_steps = causal, settings, num_steps
        self.device = causal.device
        self.autocast_dtype = autocast_dtype
        self.optimizer = make_optimizer(causal.model, settings)
        self.average = self._new_average() if settings.ema_decay > 0 else None
        self.gradients = GradientNorms(causal.model)
        self.memory = MemoryGuard(settings, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=autocast_dtype is torch.float16)
        self.loss_weights = LossWeights(settings, num_steps, self.device)
        self.ranks = Ranks()
        self.skipped_steps = 0
        self.skipped_in_a_row = 0
        self._told = 0

    @classmethod
    def of(
        cls,
        student: StudentSettings,
        tokenizer: Tokenizer,
        settings: TrainSettings,
        num_steps: int,
        device: torch.device,
        autocast_dtype: torch.dtype,
    ) -> Self:
        """A learner of the configured student, whose weights are loaded or made here."""
        causal = load_student(student, tokenizer, device)
        if settings.gradient_checkpointing:
            recompute_activations(causal)
        return cls(causal, settings, num_steps, autocast_dtype)

    def learn(self, step: int, batches: Iterable[Batch], num_scored: int) -> StepResult:
        """Do step number `step` (from 0) on its micro-batches, one after another; `num_scored` is over all of them, and
        over those of other ranks.

        Where a card's memory runs out, `batches` are gone through once more: an iterator will not do.
        """
        self.causal.model.train()
        learning_rate = learning_rate_at(step, self.num_steps, self.settings)
        temperature = temperature_at(step, self.num_steps, self.settings.temperature)
        weights = self.loss_weights.at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        # The count over the whole effective batch, so that micro-batches of unequal weight add up right.
        normaliser = max(1, num_scored)
        suspects, sums = self._accumulate(step, batches, temperature, weights, normaliser)
        if self.ranks.count > 1:
            with self.memory.fits("the sum over processes (--workers 1 has none)"):
                self._add_ranks(suspects, sums)
        sums |= self.loss_weights.figures() | self.loss_weights.gradient_norm() | self._clip()
        # The one transfer of a step: asking a card for each number would make it wait each time.
        values = torch.cat([torch.stack(list(sums.values())), suspects.flags()]).tolist()
        figures = dict(zip(sums, values, strict=False))
        trouble = suspects.find(figures, values[len(figures) :])
        self._update(step, trouble)
        self.memory.watch()
        if num_scored and trouble is None:
            self.loss_weights.observe(figures, normaliser, temperature)
        clip_norm = self.settings.clip_norm
        return StepResult.of(figures, temperature, weights, learning_rate, clip_norm, normaliser, trouble)

    @property
    def weight_kinds(self) -> tuple[str, ...]:
        """Which weights there are to validate: raw ones, and averaged ones where an average is kept."""
        return ("raw",) if self.average is None else ("raw", "ema")

    def name_of(self, weights: str) -> str:
        """Words for raw or averaged weights; there is nothing to tell apart where no average is kept."""
        return "the weights" if len(self.weight_kinds) == 1 else f"{weights} weights"

    @contextlib.contextmanager
    def holding(self, weights: str) -> Iterator[CausalModel]:
        """The student with raw or averaged weights in it, for as long as the block lasts."""
        if weights == "ema":
            assert self.average is not None
            with self.average.swapped_into(self.causal.model):
                yield self.causal
        else:
            yield self.causal

    def is_finite(self, weights: str) -> bool:
        """Whether raw or averaged weights are numbers all through; a validation sees only the rows of its own ids."""
        with self.holding(weights) as causal:
            return bool(torch.stack([weight.isfinite().all() for weight in causal.model.parameters()]).all())

    def tensors(self) -> dict[str, Tensors]:
        """File name -> named tensors, for a checkpoint."""
        tensors = {
            "weights": self.weights(),
            "optimizer": optimizer_tensors(self.optimizer, self.causal.model),
        }
        if self.average is not None:
            tensors["average"] = self.average.state_dict()
        if router := self.loss_weights.tensors():
            tensors["router"] = router
        return tensors

    @property
    def checkpoint_bytes(self) -> int:
        """What a checkpoint takes on disk, but for its JSON."""
        return checkpoint_bytes(self.settings, self.weights_bytes)

    @property
    def weights_bytes(self) -> int:
        """What the weights alone take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.weights().values())

    def weights(self) -> Tensors:
        """The student's parameters and buffers as they are now; tied ones once."""
        return unique_tensors(self.causal.model)

    def state(self) -> dict[str, object]:
        """The numbers beside the tensors, for a checkpoint."""
        return {
            "dtype": _name(self.autocast_dtype),
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self.skipped_in_a_row,
            "scaler": self.scaler.state_dict(),
            "memory": self.memory.state(),
            "loss_weights": self.loss_weights.state(),
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint, which may have been made in another dtype."""
        load_weights(self.causal.model, checkpoint.tensors("weights"))
        load_optimizer_tensors(self.optimizer, self.causal.model, checkpoint.tensors("optimizer"))
        if self.average is not None and checkpoint.holds("average"):
            self.average.load_state_dict(checkpoint.tensors("average"))
        elif self.average is not None:  # forked from a training that kept none: it begins with these weights
            self.average = self._new_average()
        state = checkpoint.state["learner"]
        if "loss_weights" in state:
            router = checkpoint.tensors("router") if checkpoint.holds("router") else {}
            self.loss_weights.load(state["loss_weights"], router)
        self.skipped_steps = int(state["skipped_steps"])
        self.skipped_in_a_row = int(state["skipped_in_a_row"])
        self.memory.load(state.get("memory"))
        if self.scaler.is_enabled() and state["scaler"]:  # empty where the steps so far needed none
            self.scaler.load_state_dict(state["scaler"])
        before, now = state.get("dtype", _name(self.autocast_dtype)), _name(self.autocast_dtype)
        if before != now:
            warn_once(
                f"the steps up to {checkpoint.step:,} were done in {before}, those from here on are in {now} "
                f"(train.dtype: {self.settings.dtype}): the numbers are not those of a training that stayed in one"
            )

    def begin_anew(self) -> None:
        """Forget what other settings led to: steps skipped in a row, and pieces cut smaller for want of memory."""
        self.skipped_in_a_row = 0
        self.memory = MemoryGuard(self.settings, self.device)

    def _new_average(self) -> WeightAverage:
        host = torch.device("cpu") if self.settings.ema_device == "host" else None
        return WeightAverage(self.causal.model, self.settings.ema_decay, host)

    def _accumulate(
        self, step: int, batches: Iterable[Batch], temperature: float, weights: StepWeights, normaliser: int
    ) -> tuple[Suspects, dict[str, Tensor]]:
        """The gradients and sums of a step; out of memory, again from its start in smaller pieces."""
        while True:
            # Dropout, where a student has it, depends on (seed, step, rank) alone: nothing to restore on resume.
            seed = self.settings.seed * 1_000_003 + step + self.ranks.number * _RANK_SEEDS
            seed_device(self.device, seed % 2**63)
            suspects = Suspects()
            self.loss_weights.forget_step()
            pieces = (piece for batch in batches for piece in batch.split(self.memory.parts))
            parts = (self._backward(piece, temperature, weights, normaliser, suspects) for piece in pieces)
            try:
                return suspects, add_up(parts)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Here no frame of what failed holds its tensors any more.
            del suspects, pieces, parts
            self.optimizer.zero_grad(set_to_none=True)
            self.memory.make_room()

    def _add_ranks(self, suspects: Suspects, sums: dict[str, Tensor]) -> None:
        """Add what the other ranks found in their shares: from here on all have the same numbers, and decide alike."""
        parameters = [*filter(_learns, self.causal.model.parameters()), *self.loss_weights.parameters()]
        most = -(-self.settings.batch_size * self.settings.accumulation // self.ranks.count)
        own = suspects.sequences + [-1] * (most - len(suspects.sequences))
        found = self.ranks.meet([self.loss_weights.num_routed, *own, *(p.grad is not None for p in parameters)])
        for parameter, *have in zip(parameters, *(row[1 + most :] for row in found), strict=True):
            if any(have) and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        routes = self.loss_weights.among([row[0] for row in found], self.ranks.number)
        flags = suspects.among([row[1 : 1 + most] for row in found], self.ranks.number)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.ranks.add([*sums.values(), flags, *routes, *gradients])

    def _backward(
        self, batch: Batch, temperature: float, weights: StepWeights, normaliser: int, suspects: Suspects
    ) -> LossParts:
        with autocast(self.device, self.autocast_dtype):
            hidden_BTD = self.causal.hidden(batch.input_ids_BT, batch.position_ids_BT)
            hidden_nD, labels_n, records_n = batch.scored(hidden_BTD.flatten(0, 1))
            parts = distillation_loss(
                hidden_nD,
                self.causal.head,
                labels_n,
                records_n,
                temperature=temperature,
                objective=self.settings.objective,
                ce_weight=weights.ce,
                kd_weight=weights.kd,
                normaliser=normaliser,
                chunk_positions=self.memory.chunk_positions,
                rank_weight=weights.rank,
                router=weights.router,
            )
        suspects.note(batch, records_n, parts)
        torch.autograd.backward(self.scaler.scale(parts.loss))
        self.loss_weights.note(parts)
        return parts

    def _clip(self) -> dict[str, Tensor]:
        """Clip the gradients; their norms before it, which are not finite where one of them is not."""
        self.scaler.unscale_(self.optimizer)
        return self.gradients.clip(self.settings.clip_norm)

    def _update(self, step: int, trouble: Trouble | None) -> None:
        if trouble is None:
            with self.memory.fits("the optimizer"):
                self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if trouble is not None:
            self._count_skipped(step, trouble)
            return
        self.skipped_in_a_row = 0
        if self.average is not None:
            self.average.update(self.causal.model, step)

    def _count_skipped(self, step: int, trouble: Trouble) -> None:
        self.skipped_steps += 1
        self.skipped_in_a_row += 1
        # A scaler finds its scale by gradients that overflow now and then; what goes on is no search for a scale.
        searching = self.scaler.is_enabled() and trouble.what == ("gradient",) and self.skipped_in_a_row <= _A_SEARCH
        if self.ranks.number == 0 and not searching:  # what all ranks know, the first one tells
            self._told += 1
            tell(step + 1, trouble, self._told)


def _learns(parameter: torch.nn.Parameter) -> bool:
    return parameter.requires_grad


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
