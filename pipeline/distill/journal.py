"""The lasting side of a training: its identity, its checkpoints, its logs and the best weights so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import differences
from pipeline.console import say, warn_once
from pipeline.distill.guards.early_stopping import Waiting
from pipeline.distill.guards.perplexity import CAP_NATS, perplexity_of
from pipeline.distill.keeping.checkpoint import (
    Checkpoint,
    is_checkpoint,
    newest_checkpoint,
    open_checkpoint,
    retire_best,
    retire_checkpoints,
    retire_leftovers,
    save_checkpoint,
)
from pipeline.distill.keeping.identity import Identity, identity_in, training_hash
from pipeline.distill.keeping.metrics_log import MetricsLog
from pipeline.distill.keeping.student_weights import load_weights, unique_tensors
from pipeline.distill.learner import Learner
from pipeline.distill.step_result import StepResult
from pipeline.distill.validation import Validation
from pipeline.errors import ConfigError, IdentityError, NumericsError, mended_by


@dataclasses.dataclass(frozen=True, slots=True)
class Best:
    """The weights with the lowest validation cross-entropy so far: of which step, raw or averaged."""

    step: int
    weights: str
    ce: float


class Journal:
    """Keeps one training under `folder`; what identifies it is compared before anything is computed.

    `training` is that identity: plan hash, frozen shards, student, schedule keys. A schedule key that differs from the
    checkpoints already there is refused; a checkpoint of the same training may also lie in one of `roots`, read-only.
    `student_hub` says where the student came from, so that a later start finds the same one there; `way_on` what
    somebody can do whose settings are other ones.
    """

    def __init__(
        self,
        folder: Path,
        training: Identity,
        roots: Sequence[Path] = (),
        student_hub: dict[str, str] | None = None,
        way_on: str | None = None,
    ) -> None:
        self.folder, self.training, self.roots = folder, training, list(roots)
        fork = f"train-student -c CONFIG --run-dir NEW {forking(folder.parent, folder.parent)}"
        self._way_on = way_on or f"Put them back, or start a new run from where this one stands: {fork}"
        self._student_hub = {} if student_hub is None else {"student_hub": student_hub}
        self.log = MetricsLog(folder)
        self.best: Best | None = None
        self.waiting = Waiting()
        self.newest: Path | None = None
        """the checkpoint that the training went on from or that was saved since; None before there is one"""
        self._best_folder: Path | None = None  # where the best weights lie: here, or in a root
        self._checkpoints = folder / "checkpoints"
        self._places = [self._checkpoints]
        self._checked: set[Path] = set()  # checkpoints that were read and found whole since this process began
        self._hash = training_hash(training)

    def find(self) -> Checkpoint | None:
        """The newest valid checkpoint of this training, here or in a root; another training's here is refused."""
        for root in self.roots:
            if not root.is_dir():
                raise ConfigError(
                    f"train.roots: {root}: no such folder; expected one with checkpoints of this training. Mount it, "
                    "or leave it out."
                )
        own = newest_checkpoint([self._checkpoints])
        if own is not None and identity_in(own.state) != self.training:
            raise IdentityError(
                f"{own.folder}: this run has begun with other settings, and a training cannot change half-way.\n"
                + "\n".join(differences(identity_in(own.state), self.training))
                + self._by_flag(own.state)
                + f"\n{self._way_on}"
            )
        elsewhere = newest_checkpoint((), lambda state: identity_in(state) == self.training, roots=self.roots)
        found = [checkpoint for checkpoint in (own, elsewhere) if checkpoint is not None]
        if not found and (other := newest_checkpoint(roots=self.roots)) is not None:
            # It may have been meant to go on from there.
            changed = differences(identity_in(other.state), self.training)
            warn_once(
                "train.roots hold no checkpoint of this training, so none is continued, and it begins at its first "
                f"step; {other.folder} is of another one. To go on with that one put back what differs; to begin this "
                f"one from where it stands: --fork-from {other.folder}. What differs:\n" + "\n".join(changed)
            )
        return max(found, key=lambda checkpoint: checkpoint.step, default=None)

    def _by_flag(self, state: dict[str, Any]) -> str:
        """What to add where a flag was forgotten, or is one too many."""
        before, now = (identity.get("frozen_shards") is not None for identity in (identity_in(state), self.training))
        if before == now:
            return ""
        return f"\nIt was begun {'with' if before else 'without'} --use-sealed-only: run it so again."

    def resume(self, checkpoint: Checkpoint | None, learner: Learner) -> int:
        """Put the learner and the logs where `checkpoint` left them; returns the number of steps done."""
        if checkpoint is None:
            self.log.rewind(0, self.folder)
            return 0
        learner.load(checkpoint)
        self.newest = checkpoint.folder
        self._places.append(checkpoint.folder.parent)
        self._checked.add(checkpoint.folder)
        best = checkpoint.state["best"]
        self.best = None if best is None else Best(**best)
        self.waiting = Waiting.of(checkpoint.state)
        self.log.rewind(checkpoint.step, checkpoint.folder.parent.parent, checkpoint.state.get("log"))
        say(f"continuing after step {checkpoint.step:,}, from {checkpoint.folder}")
        if self.best is not None:
            self._find_best(self.best)
        return checkpoint.step

    def fork(self, origin: Path, learner: Learner) -> int:
        """Begin this training from another run's newest checkpoint, or from one checkpoint, saying what differs."""
        checkpoint = _to_fork_from(origin)
        if checkpoint.step >= learner.num_steps:
            raise ConfigError(
                f"--fork-from {origin}: its checkpoint is after step {checkpoint.step:,}, and this training ends at "
                f"{learner.num_steps:,}: there is nothing left to learn. Raise train.steps (or train.epochs)."
            )
        changed = differences(checkpoint.state["training"], self.training)
        say("\n".join([f"forked after step {checkpoint.step:,}, from {checkpoint.folder}; what differs:", *changed]))
        learner.load(checkpoint)
        learner.begin_anew()  # what went wrong there is not held against other settings
        self.log.rewind(checkpoint.step, checkpoint.folder.parent.parent, checkpoint.state.get("log"), forked=True)
        self.save(checkpoint.step, learner)
        return checkpoint.step

    def refuse_endless_skipping(self, step: int, learner: Learner) -> None:
        """NumericsError where too many steps in a row were skipped; it names the newest checkpoint from before them."""
        if learner.skipped_in_a_row < learner.settings.max_skipped_in_a_row:
            return
        good = newest_checkpoint(self._places, lambda state: state["learner"]["skipped_in_a_row"] == 0)
        if good is None:
            way_on = "There is no checkpoint from before them. Start a new run (--run-dir NEW)"
        else:
            run = good.folder.parent.parent.parent
            way_on = (
                f"The newest checkpoint from before them is {good.folder}. Start a new run from it, or from an older "
                f"one where its weights had already gone bad: --run-dir NEW {forking(good.folder, run)},"
            )
        raise NumericsError(
            f"step {step:,}: the last {learner.skipped_in_a_row} steps had losses or gradients that are not finite and "
            f"were skipped (train.max_skipped_in_a_row); this training cannot go on. {way_on} with a lower "
            "train.learning_rate, or with train.dtype float32 if it is not. What was not finite, and in which "
            f"sequences, is in {self.log.metrics_path}, in lines of the kind skipped."
        )

    def log_step(self, step: int, result: StepResult, skipped_steps: int) -> None:
        """One metrics line of a training step."""
        self.log.metrics({"step": step, "kind": "train"} | result.line() | {"skipped_steps": skipped_steps})

    def log_skipped(self, step: int, result: StepResult, learner: Learner) -> None:
        """One metrics line of a step that was skipped, whether or not it is one that is logged; none of others."""
        if result.trouble is not None:
            counts = {"skipped_steps": learner.skipped_steps, "skipped_in_a_row": learner.skipped_in_a_row}
            self.log.metrics({"step": step, "kind": "skipped"} | result.trouble.line() | counts)

    def log_validation(self, step: int, found: Mapping[str, Validation], learner: Learner) -> None:
        """One metrics line for raw and one for averaged weights; the better are kept if they are the best so far.

        Counts how long there was no improvement; where that is too long, one more line says that training stops here.
        """
        for weights, validation in found.items():
            line = {"step": step, "kind": "validation", "weights": weights} | dataclasses.asdict(validation)
            if validation.ce > CAP_NATS:
                warn_once(f"a validation above {CAP_NATS:.0f} nats is logged as the perplexity exp({CAP_NATS:.0f})")
            self.log.metrics(line | {"perplexity": perplexity_of(validation.ce)})
        best_before, settings = self.best, learner.settings
        lowest = min(self.choose_best(step, found, learner).values(), default=math.nan)
        self.waiting = self.waiting.after(lowest, settings.patience, settings.min_delta)
        figures = "; ".join(
            str(validation) if len(found) == 1 else f"{learner.name_of(weights)} {validation}"
            for weights, validation in found.items()
        )
        standing = "" if self.best is best_before else ", the best so far"
        if settings.patience is not None and self.waiting.evaluations:
            standing += f", {self.waiting.evaluations} of {settings.patience} evaluations without improvement"
        say(f"validation after step {step:,}: {figures}{standing}")
        if self.waiting.stopped and step < learner.num_steps:
            self.log.metrics({"step": step, "kind": "stopped", "evaluations": self.waiting.evaluations})

    def choose_best(self, step: int, found: Mapping[str, Validation], learner: Learner) -> dict[str, float]:
        """Keep the weights with the lowest cross-entropy if they are the best so far; returns it, of those that count.

        Weights that are not finite do not, nor does a cross-entropy that is not.
        """
        finite = {weights: validation.ce for weights, validation in found.items() if math.isfinite(validation.ce)}
        if len(finite) < len(found):
            warn_once("a validation gave numbers that are not finite; its weights are not taken for the best ones")
        for odd in [weights for weights in finite if not learner.is_finite(weights)]:  # where no text of it looked
            warn_once(f"the {odd} weights hold numbers that are not finite; they are not taken for the best ones")
            del finite[odd]
        weights = min(finite, key=lambda weights: finite[weights], default=None)
        if weights is None or (self.best is not None and finite[weights] >= self.best.ce):
            return finite
        self.best = Best(step, weights, finite[weights])
        with learner.holding(weights) as causal:
            tensors = {"weights": unique_tensors(causal.model)}
            self._best_folder = save_checkpoint(self._checkpoints, "best", step, tensors, self._state()).folder
        retire_best(self._checkpoints, step)
        return finite

    def save(self, step: int, learner: Learner) -> None:
        """Checkpoint all that a resume needs, then let go of what the newer one replaces."""
        self.log.sync()
        state = self._state() | {"learner": learner.state(), "log": self.log.digest()}
        saved = save_checkpoint(self._checkpoints, "step", step, learner.tensors(), state)
        self._checked.add(saved.folder)
        self.newest = saved.folder
        self.let_go(step, learner)

    def let_go(self, step: int, learner: Learner) -> None:
        """Remove what the checkpoint of `step` replaces, and what an earlier start was stopped in removing.

        In the middle of skipped steps nothing is let go of: what came before them may be needed.
        """
        if learner.skipped_in_a_row == 0:
            retire_checkpoints(self._checkpoints, step, self.best.step if self.best else None, self._checked)

    def tidy(self, checkpoint: Checkpoint | None) -> None:
        """Before one goes on from `checkpoint`, remove what a start that was killed left: room for the next save.

        As in `let_go`, in the middle of skipped steps only what was never finished goes.
        """
        all_good = checkpoint is None or checkpoint.state["learner"]["skipped_in_a_row"] == 0
        retire_leftovers(self._checkpoints, checkpoint, all_good)

    def load_best(self, learner: Learner) -> Best:
        """Put the best weights so far into the model; NumericsError where no validation gave a number.

        DamagedDataError where they have gone bad on disk since they were kept.
        """
        if self.best is None:
            raise NumericsError(
                f"{self.folder}: no validation of this training gave a finite cross-entropy, so there are no best "
                "weights to export: they have gone bad. Start a new run (--run-dir NEW) with a lower "
                "train.learning_rate, or with train.dtype float32 if it is not."
            )
        with mended_by("Run the same command again: it chooses the best weights anew, from its newest checkpoint on."):
            assert self._best_folder is not None
            load_weights(learner.causal.model, open_checkpoint(self._best_folder).tensors("weights"))
        return self.best

    def _find_best(self, best: Best) -> None:
        """See that the best weights of the checkpoint that is gone on from are here, or in a root; there they stay."""
        found = newest_checkpoint(
            [self._checkpoints],
            lambda state: identity_in(state) == self.training,
            roots=self.roots,
            prefix=f"best-{best.step:08d}",
        )
        if found is None:
            where = " or ".join(map(str, [self._checkpoints, *self.roots]))
            warn_once(
                f"the best weights so far are lost, and are chosen anew from here on: those of step {best.step:,} are "
                f"not whole in {where}"
            )
            self.best = None
            return
        self._best_folder = found.folder
        if found.folder.parent != self._checkpoints:
            say(
                f"the best weights so far are those of step {best.step:,}, in {found.folder}: until there are better "
                "ones, keep that folder among train.roots"
            )

    def _state(self) -> dict[str, Any]:
        best = None if self.best is None else dataclasses.asdict(self.best)
        waiting = self.waiting.state()
        state = {"training": self.training, "training_hash": self._hash, "best": best, "waiting": waiting}
        return state | self._student_hub


def forking(origin: Path, run: Path) -> str:
    """The options that begin a new run from where another stands; the cache is not in the new one."""
    return f"--fork-from {origin} --set 'cache.roots=[{run}]' (or wherever its cache lies)"


def _to_fork_from(origin: Path) -> Checkpoint:
    """The checkpoint that --fork-from means: `origin` itself, or the newest of that run."""
    if not is_checkpoint(origin):
        newest = newest_checkpoint([origin / "student" / "checkpoints"])
        if newest is None:
            raise ConfigError(
                f"--fork-from {origin}: expected a run with a finished checkpoint, or the folder of one, such as "
                "RUN/student/checkpoints/step-00000400; found neither."
            )
        return newest
    with mended_by("Give --fork-from another checkpoint, or the run's folder for its newest whole one."):
        checkpoint = open_checkpoint(origin)
    if not checkpoint.holds("optimizer"):
        raise ConfigError(
            f"--fork-from {origin}: holds weights alone, and a training goes on from a checkpoint named step-N. To "
            "begin afresh with a student's weights, set student.model to its student/model folder."
        )
    return checkpoint
