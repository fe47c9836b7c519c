"""How many trainings a study takes, and what each is called on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.benches.quality.arms import BEGINNING, Arm

RATE_STEP = 2.0**0.5
"""from one learning rate to the next. A factor of 2 apart, two could lie on either side of an arm's best, and cost it
more than arms differ by"""
RATE_FACTORS = (1.0, 1 / RATE_STEP, RATE_STEP)
"""of the study's rate, the middle one first: each arm is at its best of three, or of more where that lies at an edge"""
MOST_BEYOND = 6
"""rates that are tried beyond the three, one by one, while the best is the lowest or the highest"""
DECIDING_SEEDS, SEEDS = 5, 3
CHOOSING_SEEDS = 3
"""by whose mean a rate is chosen: on one alone the reference itself has been given the worse of two, and an arm a share
of the gain that was half a point too high"""
SHORTLIST = 3
"""candidates, the best of all by seed 0, of which the same mean chooses one"""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One training: an arm with one of its candidates, at a rate, with a seed of its init and of its order."""

    arm: Arm
    candidate: str
    steps: int
    learning_rate: float
    seed: int
    beginning: Trial | None = None
    """the training whose student this one begins with; None: the config's student"""

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
    beginning_steps: int = 0
    """on labels, that every student of the study has behind it; 0 where the config's student comes trained"""
    beginning_rate: float = 0.0

    def seeds(self, arm: Arm) -> range:
        """The seeds of an arm; any two arms have the first ones in common."""
        return range(self.num_seeds or (DECIDING_SEEDS if arm.decides else SEEDS))

    def choosing_seeds(self, arm: Arm) -> range:
        """Those of them by which its rate is chosen."""
        return self.seeds(arm)[:CHOOSING_SEEDS]

    def trial(self, arm: Arm, candidate: str, factor: float, seed: int) -> Trial:
        """One training of this study, at `factor` times its learning rate."""
        return Trial(arm, candidate, self.steps, self.learning_rate * factor, seed, self.beginning(seed))

    def with_seed(self, trial: Trial, seed: int) -> Trial:
        """The same training, of another student and in another order."""
        return replace(trial, seed=seed, beginning=self.beginning(seed))

    def beginning(self, seed: int) -> Trial | None:
        """What a seed's student learned before; every arm begins with the same one."""
        if not self.beginning_steps:
            return None
        return Trial(BEGINNING, "", self.beginning_steps, self.beginning_rate, seed)

    def beginnings(self) -> list[Trial]:
        """Those of all its seeds."""
        seeds = range(max((len(self.seeds(arm)) for arm in self.arms), default=0))
        return [beginning for seed in seeds if (beginning := self.beginning(seed)) is not None]

    def beyond(self, tried: Sequence[Trial], best: Trial) -> Trial | None:
        """The next rate for an arm whose best of those tried is the lowest or the highest; None where it is enough."""
        rates = _rates(tried, best)
        if len(rates) >= len(RATE_FACTORS) + MOST_BEYOND or not is_at_an_edge(tried, best):
            return None
        factor = RATE_STEP if best.learning_rate == max(rates) else 1 / RATE_STEP
        return replace(best, learning_rate=best.learning_rate * factor)

    def num_trainings(self, arm: Arm) -> int:
        """At the middle rate all candidates with seed 0, and the best few with those that choose; the best of these at
        the other rates too; and at its best rate with all seeds."""
        seeds, choosing, candidates = len(self.seeds(arm)), len(self.choosing_seeds(arm)), len(arm.candidates)
        at_the_middle = candidates + min(SHORTLIST, candidates) * (choosing - 1)
        return at_the_middle + (len(RATE_FACTORS) - 1) * choosing + seeds - choosing

    def first_trials(self, arm: Arm) -> Iterator[Trial]:
        """The candidates of an arm at the middle rate, seed 0."""
        return (self.trial(arm, candidate, RATE_FACTORS[0], 0) for candidate in arm.candidates)


def is_at_an_edge(tried: Sequence[Trial], best: Trial) -> bool:
    """Whether the best rate of those tried is the lowest or the highest: a better one may lie beyond."""
    rates = _rates(tried, best)
    return not min(rates) < best.learning_rate < max(rates)


def _rates(tried: Sequence[Trial], best: Trial) -> list[float]:
    return [trial.learning_rate for trial in tried if (trial.arm, trial.candidate) == (best.arm, best.candidate)]


def trainings(studies: Sequence[Study]) -> int:
    """How many there are in all, but for rates that turn out to be wanted beyond the three."""
    return len(beginnings(studies)) + sum(study.num_trainings(arm) for study in studies for arm in study.arms)


def steps(studies: Sequence[Study]) -> int:
    """Optimizer steps of all trainings."""
    of_arms = sum(study.num_trainings(arm) * study.steps for study in studies for arm in study.arms)
    return of_arms + sum(beginning.steps for _, beginning in beginnings(studies))


def beginnings(studies: Sequence[Study]) -> list[tuple[int, Trial]]:
    """(V, training) of what all students have behind them; studies on one vocabulary have it in common."""
    named = {(study.vocab_size, trial.folder): trial for study in studies for trial in study.beginnings()}
    return [(vocab_size, trial) for (vocab_size, _), trial in named.items()]
