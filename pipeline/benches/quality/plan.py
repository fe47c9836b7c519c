"""How many trainings a study takes, and what each is called on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.benches.quality.arms import Arm

RATE_FACTORS = (1.0, 0.5, 2.0)
"""of train.learning_rate, the middle one first: each arm is at its best of three"""
DECIDING_SEEDS, SEEDS = 5, 3


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One training: an arm with one of its candidates, at a rate, with a seed of its init and of its order."""

    arm: Arm
    candidate: str
    steps: int
    learning_rate: float
    seed: int

    @property
    def folder(self) -> str:
        """Where it lies below the trainings of its vocabulary."""
        candidate = f"{self.candidate}-" if self.candidate else ""
        return f"{self.arm.name}/{candidate}{self.steps}steps-rate{self.learning_rate:g}-seed{self.seed}"


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """Arms compared after one number of steps, on one vocabulary."""

    name: str
    """"" for the first; else it follows the arm in the name of a figure"""
    steps: int
    learning_rate: float
    vocab_size: int
    """V; 0 where the teacher's is not known yet"""
    arms: tuple[Arm, ...]
    num_seeds: int | None = None
    """None: five where a default hangs on it, else three"""

    def seeds(self, arm: Arm) -> range:
        """The seeds of an arm; any two arms have the first ones in common."""
        return range(self.num_seeds or (DECIDING_SEEDS if arm.decides else SEEDS))

    def trial(self, arm: Arm, candidate: str, factor: float, seed: int) -> Trial:
        """One training of this study, at `factor` times its learning rate."""
        return Trial(arm, candidate, self.steps, self.learning_rate * factor, seed)

    def num_trainings(self, arm: Arm) -> int:
        """Candidates at the middle rate, the best of them at the other rates, the best of those with other seeds."""
        return len(arm.candidates) + len(RATE_FACTORS) - 1 + len(self.seeds(arm)) - 1

    def first_trials(self, arm: Arm) -> Iterator[Trial]:
        """The candidates of an arm at the middle rate, seed 0."""
        return (self.trial(arm, candidate, RATE_FACTORS[0], 0) for candidate in arm.candidates)


def trainings(studies: list[Study]) -> int:
    """How many there are in all."""
    return sum(study.num_trainings(arm) for study in studies for arm in study.arms)


def steps(studies: list[Study]) -> int:
    """Optimizer steps of all trainings."""
    return sum(study.num_trainings(arm) * study.steps for study in studies for arm in study.arms)
