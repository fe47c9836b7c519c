"""Learning from the cache.

Rooms and files, each knowing only those before it: `settings` (the keys of `train`), `ranks` (the processes of a
training), `loss`, `losses` (the loss as anyone may call it), `keeping`, `optimization`, `weighting`, `batching`,
`step_result`, `guards`, `validation`, `stopwatch`, `learner` (takes the steps), `checkpoint_room`, `journal`,
`saves`, `training_workers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.lazy_names import lazy_names

if TYPE_CHECKING:
    from pipeline.distill.loss.record_tensors import RecordTensors
    from pipeline.distill.losses import LossParts, distillation_loss

__all__ = ["LossParts", "RecordTensors", "distillation_loss"]
_HOMES = {"LossParts": "losses", "RecordTensors": "loss.record_tensors", "distillation_loss": "losses"}

__getattr__ = lazy_names(__name__, _HOMES)
