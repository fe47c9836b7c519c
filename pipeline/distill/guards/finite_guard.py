"""What is not finite in a step, and which sequences it came from; such a step never reaches the optimizer.

Nothing is clamped to hide it: a step is learned from as it is, or skipped as a whole. What training bounds is bounded
for reasons of its own, told where it is done:

    the gradients' norm                     gradient_norms.py, `train.clip_norm`
    divisors that may be zero               losses.py (a normaliser of no weights), ranking.py (choices), head_loss.py
                                            (rows that float16 products scale by), loss_weights.LEAST_MEAN, softening.py
                                            (draws beside a label where there are none)
    log p of a label stored as 0            softening.LEAST_LABEL_NATS, of `sampled` records
    powers under an entropy's logarithm     student_softmax.py
    how far balance moves a weight          balance.MOST, balance.LEAST
    signals of the routers gap and trust    routing.py: a student that is ahead, a label that is no surprise, are at 0
    what a position counts for in the gate  gate.MOST, and what a part does beside the largest, loss_weights._MOST_TIMES
    the log mass of a tail stored as empty  divergences.EMPTY_TAIL_NATS, for reverse_kl
    what no mass weighs                     divergences.py (a gap at an id of no mass is 0), softening.py (draws of an
                                            empty tail stand for none)
    means and magnitudes of earlier steps   a step that is not finite leaves them as they were: loss_weights.py
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.console import warn_once
from pipeline.distill.batching.batches import Batch
from pipeline.distill.loss.record_tensors import RecordTensors
from pipeline.distill.loss.routing import PARTS
from pipeline.distill.losses import LossParts
from pipeline.distill.step_result import Trouble

_TOLD = 5  # skipped steps that are said, as well as logged
_SHOWN = 8  # sequences that a warning names; the log names all


class Suspects:
    """Collects, over the micro-batches of a step, which of its sequences hold something that is not finite.

    On the device until the step's figures are fetched: `flags` travels with them, and `find` reads it.
    """

    def __init__(self) -> None:
        self._sequences: list[int] = []
        self._flags: list[Tensor] = []

    def note(self, batch: Batch, records: RecordTensors | None, parts: LossParts) -> None:
        """Look at the scored positions of a micro-batch: `records` and `parts` are theirs."""
        num_rows, length = batch.input_ids_BT.shape
        odd_loss_n = ~torch.isfinite(_losses(parts))
        odd_record_n = torch.zeros_like(odd_loss_n) if records is None else _odd_records(records)
        flags_2n = torch.stack([odd_loss_n, odd_record_n]).float()
        flags_2B = flags_2n.new_zeros(2, num_rows)
        if batch.scored_n is None:
            flags_2B += flags_2n.reshape(2, num_rows, length).sum(dim=2)
        else:
            flags_2B.index_add_(1, batch.scored_n // length, flags_2n)
        self._flags.append(flags_2B)
        self._sequences += batch.sequences or [-1] * num_rows

    def flags(self) -> Tensor:
        """How many odd positions each sequence has, of losses and then of records; [2·S] for S sequences."""
        return torch.cat(self._flags, dim=1).flatten()

    @property
    def sequences(self) -> list[int]:
        """Numbers in the cache, in the order of the flags; below 0 for those that have none."""
        return self._sequences

    def among(self, ranks: Sequence[list[int]], number: int) -> Tensor:
        """Widen to the sequences of all ranks, equally many each. Those of rank `number` keep their flags, the others
        start at zero; returns flags [2, S], to be summed over ranks."""
        own_2S = torch.cat(self._flags, dim=1)
        first = number * len(ranks[number])
        all_2S = own_2S.new_zeros(2, sum(map(len, ranks)))
        all_2S[:, first : first + own_2S.shape[1]] = own_2S
        self._sequences, self._flags = [sequence for rank in ranks for sequence in rank], [all_2S]
        return all_2S

    def find(self, figures: Mapping[str, float], flags: Sequence[float]) -> Trouble | None:
        """What was not finite, from the step's figures (name -> sum) and `flags`, on the host; None where all was."""
        num_sequences = len(self._sequences)
        losses, records = flags[:num_sequences], flags[num_sequences:]
        what = ["records"] * any(records)
        what += [name for name in (*PARTS, "loss") if name in figures and not math.isfinite(figures[name])]
        gradients = (figures["gradient_norm"], figures.get("router_gradient", 0.0))
        what += ["gradient"] * (not all(map(math.isfinite, gradients)))
        if not what:
            return None
        odd = [number for number, *found in zip(self._sequences, losses, records, strict=True) if any(found)]
        return Trouble(tuple(what), tuple(sorted({number for number in odd or self._sequences if number >= 0})))


def tell(step: int, trouble: Trouble, number: int) -> None:
    """Say that step number `step` (from 1) was skipped, the `number`-th to be told of in this start: the first few are,
    the log has all."""
    if number > _TOLD:
        return
    shown = ", ".join(f"{number:,}" for number in trouble.sequences[:_SHOWN])
    more = f" and {len(trouble.sequences) - _SHOWN:,} more" if len(trouble.sequences) > _SHOWN else ""
    named = f" Sequences of the cache: {shown}{more}." if shown else ""
    last = " Further ones are in metrics.jsonl alone, as lines of the kind skipped." if number == _TOLD else ""
    warn_once(f"step {step:,}: {', '.join(trouble.what)} not finite; it was skipped and counted.{named}{last}")


def _losses(parts: LossParts) -> Tensor:
    """One number a position that is finite where all its parts are."""
    found = (getattr(parts, f"{name}_N", None) for name in PARTS)
    return torch.stack([part_N.float() for part_N in found if part_N is not None]).sum(dim=0)


def _odd_records(records: RecordTensors) -> Tensor:
    """Which positions have records that no teacher left: NaN, or an infinity; each shows in a sum.

    −∞ is padding in the head and an empty tail in the masses, and nothing a teacher says of labels, draws or entropy.
    """
    maybe_N = torch.stack([records.logprobs_NK.sum(dim=1), records.tail_NR.sum(dim=1)]).sum(dim=0)
    sure_N = records.draw_logprobs_NM.sum(dim=1) + records.label_logprobs_N + records.entropies_N
    return maybe_N.isnan() | maybe_N.isposinf() | ~sure_N.isfinite()
