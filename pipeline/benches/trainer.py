"""transformers' own Trainer on labels, a few steps at a time, with everything but the steps left out of the time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments


class _StepClock(TrainerCallback):  # type: ignore[misc]
    """When the first step began and the last one ended."""

    def __init__(self) -> None:
        self.began, self.ended = 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Its batch is there by now, as ours is when our clock starts."""
        self.began = self.began or time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The optimizer has done its step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ended = time.perf_counter()


class TrainerLoop:
    """Fine-tunes `model` on the same rows of ids in every step: its own AdamW, float32, nothing logged or saved."""

    def __init__(
        self, model: Any, input_ids: np.ndarray, steps: int, learning_rate: float, folder: Path, device: torch.device
    ) -> None:
        """`input_ids` [B, T+1] give B sequences of T ids; `folder` is where Trainer would put what it saved."""
        rows = torch.from_numpy(input_ids[:, :-1].astype(np.int64))
        arguments = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=len(rows),
            max_steps=steps,
            learning_rate=learning_rate,
            use_cpu=device.type == "cpu",
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=device.type == "cuda",
        )
        arguments._n_gpu = min(1, arguments.n_gpu)  # with several cards it would take as many batches a step, unasked
        dataset: Any = [{"input_ids": row, "labels": row} for row in rows] * steps
        self._clock = _StepClock()
        self._trainer = Trainer(model=model, args=arguments, train_dataset=dataset, callbacks=[self._clock])
        self._trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
        self._trainer.create_optimizer()  # once: a new one a round would begin without its moments

    def run(self) -> float:
        """Seconds of the steps of one round."""
        self._clock.began = 0.0
        self._trainer.train()
        return self._clock.ended - self._clock.began
