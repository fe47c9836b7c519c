"""Numbers that are not finite, put at one place of one step; each says whether it was reached, and whose it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from pipeline.distill import learner as learner_module
from pipeline.distill.batching.batches import Batch
from pipeline.distill.learner import Learner
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.losses import LossParts
from pipeline.distill.optimization.gradient_norms import GROUPS
from pipeline.models.head import Head
from pipeline.models.teacher import Teacher

VALUES = {"nan": math.nan, "+inf": math.inf, "-inf": -math.inf}
RECORD_FIELDS = ("logprobs_NK", "tail_NR", "draw_logprobs_NM", "label_logprobs_N", "entropies_N")
LOGITS = ("label", "head", "draw", "other")
MINUS_INFINITY_IS_MEANT = ("logprobs_NK", "tail_NR")
"""Records where it is padding, or an empty tail"""


@dataclass(slots=True)
class Poison:
    """One place: of what kind, which one of these, at which row of the second micro-batch."""

    kind: str
    """logits | part | gradient | record"""
    which: str
    value: float
    row: int = 0
    reached: int = field(default=0, compare=False)

    @property
    def name(self) -> str:
        """For a tally: what is poisoned, with what."""
        value = next(name for name, known in VALUES.items() if known == self.value or known is self.value)
        return f"{value} in {self.kind} {self.which}"

    def is_harmless(self, learner: Learner) -> bool:
        """Whether it says nothing that is not finite: minus infinity is a probability of zero where nothing looks."""
        if self.value != -math.inf:
            return False
        unseen = {"other"} if learner.settings.objective == "sampled_tail" else {"other", "draw"}
        return (self.kind == "logits" and self.which in unseen) or self.which in MINUS_INFINITY_IS_MEANT

    def suspects(self, batches: list[Batch]) -> tuple[int, ...]:
        """The sequences that are to be named: its own, or of a gradient, or the loss as a whole, all of the step."""
        if self.kind == "gradient" or self.which == "loss":
            return tuple(sorted({number for batch in batches for number in batch.sequences}))
        scored_n = batches[1].scored_n
        assert scored_n is not None
        return (batches[1].sequences[int(scored_n[self.row]) // batches[1].input_ids_BT.shape[1]],)

    @contextmanager
    def at_work(self, learner: Learner, batches: list[Batch]) -> Iterator[None]:
        """In the block, its place holds its value."""
        with pytest.MonkeyPatch.context() as patch:
            if self.kind == "logits":
                self._in_logits(patch, batches[1])
            elif self.kind == "part":
                self._in_parts(patch)
            elif self.kind == "record":
                self._in_records(batches[1])
            handles = self._in_gradients(learner) if self.kind == "gradient" else []
            yield
            for handle in handles:
                handle.remove()

    def _in_logits(self, patch: pytest.MonkeyPatch, batch: Batch) -> None:
        _, labels_n, records_n = batch.scored(torch.zeros(len(batch.labels_N), 1))
        assert records_n is not None
        label, head, draws = int(labels_n[self.row]), records_n.ids_NK[self.row], records_n.draw_ids_NM[self.row]
        known = {label, *head.tolist(), *draws.tolist()}
        other = next(number for number in range(1000) if number not in known)
        number = {"label": label, "head": int(head[-1]), "draw": int(draws[0]), "other": other}[self.which]
        real, calls = Head.logits_float32, 0

        def logits(head: Head, hidden_nD: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
            nonlocal calls
            calls += 1
            found = real(head, hidden_nD, room)
            if calls == 2:  # one call a micro-batch
                found[self.row, number] = self.value
                self.reached += 1
            return found

        patch.setattr(Head, "logits_float32", logits)

    def _in_parts(self, patch: pytest.MonkeyPatch) -> None:
        real, calls = learner_module.distillation_loss, 0

        def loss(*args: Any, **options: Any) -> LossParts:
            nonlocal calls
            calls += 1
            parts = real(*args, **options)
            if calls != 2:
                return parts
            self.reached += 1
            if self.which == "loss":
                return replace(parts, loss=parts.loss + self.value)
            values_n = getattr(parts, f"{self.which}_N").clone()
            values_n[self.row] = self.value
            return replace(parts, **{f"{self.which}_N": values_n})

        patch.setattr(learner_module, "distillation_loss", loss)

    def _in_records(self, batch: Batch) -> None:
        assert batch.scored_n is not None
        assert batch.records is not None
        values = getattr(batch.records, self.which).view(len(batch.records), -1)
        values[batch.scored_n[self.row], -1] = self.value
        self.reached += 1

    def _in_gradients(self, learner: Learner) -> list[Any]:
        def spoil(gradient: torch.Tensor) -> torch.Tensor:
            spoiled = gradient.clone()
            spoiled.view(-1)[self.row] = self.value
            self.reached += 1
            return spoiled

        return [parameters_of(learner)[self.which].register_hook(spoil)]


def parameters_of(learner: Learner) -> dict[str, torch.nn.Parameter]:
    """One parameter of each group there is; the gate's, where there is one, as `router`."""
    found = dict(learner.gradients._parameters)
    assert set(found) >= set(GROUPS) - {"other"}
    router = learner.loss_weights.router
    return found | ({"router": next(router.parameters())} if isinstance(router, torch.nn.Module) else {})


def places(learner: Learner) -> Iterator[tuple[str, str]]:
    """(kind, which) of all places a step of this learner has."""
    yield from (("logits", which) for which in LOGITS)
    yield from (("part", which) for which in (*learner.settings.parts, "loss"))
    yield from (("gradient", which) for which in parameters_of(learner))
    yield from (("record", which) for which in RECORD_FIELDS)


def refuse_what_is_not_finite(learner: Learner) -> None:
    """From here on an optimizer that is given a gradient that is not finite fails the test."""
    optimizers = {"student": learner.optimizer}
    if (router := learner.loss_weights.router) is not None and hasattr(router, "_adam"):
        optimizers["router"] = router._adam

    def check(name: str) -> Callable[..., None]:
        def hook(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            assert all(bool(gradient.isfinite().all()) for gradient in gradients), f"reached the {name}'s optimizer"

        return hook

    for name, optimizer in optimizers.items():
        optimizer.register_step_pre_hook(check(name))


@contextmanager
def in_teacher(value: float, call: int, row: int, column: int) -> Iterator[list[str]]:
    """In the block, the teacher's logits hold `value` in a row of the call-th chunk (from 0); where, in words."""
    places: list[str] = []
    calls, now = 0, False
    score_chunk, real = Teacher._score_chunk, Head.logits_float32

    def scored(teacher: Teacher, hidden_BTD: Any, chunk: Any, *rest: Any) -> None:
        nonlocal calls, now
        now = calls == call
        if now:
            places.append(f"(sequence {chunk.row_n[row]}, position {chunk.t_n[row]})")
        calls += 1
        score_chunk(teacher, hidden_BTD, chunk, *rest)
        now = False

    def logits(head: Head, hidden_nD: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
        found = real(head, hidden_nD, room)
        if now:
            found[row, column] = value
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Teacher, "_score_chunk", scored)
        patch.setattr(Head, "logits_float32", logits)
        yield places


def clone(batch: Batch) -> Batch:
    """A batch whose records may be spoiled."""
    records = batch.records
    assert records is not None
    copies = {name: getattr(records, name).clone() for name in RECORD_FIELDS}
    spoiled: RecordTensors = replace(records, **copies)
    return replace(batch, records=spoiled)
