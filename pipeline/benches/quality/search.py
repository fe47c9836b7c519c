"""The search for each arm's best candidate and learning rate; what trains is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Protocol

from pipeline.benches.quality.arms import Arm
from pipeline.benches.quality.plan import RATE_FACTORS, SHORTLIST, Study, Trial
from pipeline.errors import NumericsError


class TrainAll(Protocol):
    """Trains what is not trained yet; infinite where one diverged."""

    def __call__(self, trials: Sequence[Trial], beyond: bool = False) -> dict[Trial, float]:
        """Validation cross-entropy of each; `beyond`: trials that the plan did not count."""


def rate_scores(study: Study, train_all: TrainAll) -> dict[Trial, float]:
    """Validation cross-entropy of each arm at every rate tried, with the candidate that is best at the middle one.

    Candidates are sifted on seed 0; one of the best few is chosen, and then a rate, by the mean over the arm's choosing
    seeds.
    """
    sifted = train_all([trial for arm in study.arms for trial in study.first_trials(arm)])
    few = [trial for arm in study.arms for trial in _best_of(arm, sifted, SHORTLIST)]
    chosen = _lowest(_means(study, few, train_all))
    scores = _means(
        study,
        [study.trial(best.arm, best.candidate, factor, seed=0) for best in chosen.values() for factor in RATE_FACTORS],
        train_all,
    )
    while further := [trial for best in _lowest(scores).values() if (trial := study.beyond(tuple(scores), best))]:
        scores |= _means(study, further, train_all, beyond=True)
    return scores


def _means(study: Study, trials: Sequence[Trial], train_all: TrainAll, beyond: bool = False) -> dict[Trial, float]:
    """Mean validation cross-entropy of each over the seeds that choose; infinite where one of them diverged."""
    seeds = {trial: [study.with_seed(trial, seed) for seed in study.choosing_seeds(trial.arm)] for trial in trials}
    ends = train_all([trial for of_one in seeds.values() for trial in of_one], beyond=beyond)
    return {trial: fmean(ends[each] for each in of_one) for trial, of_one in seeds.items()}


def _best_of(arm: Arm, scores: Mapping[Trial, float], count: int) -> list[Trial]:
    """An arm's `count` best trials, the best first."""
    return sorted((trial for trial in scores if trial.arm is arm), key=scores.__getitem__)[:count]


def best_of_each(scores: Mapping[Trial, float]) -> dict[str, Trial]:
    """The training of each arm that is best; NumericsError where an arm has none that is stable."""
    best = _lowest(scores)
    if diverged := [name for name, trial in best.items() if not math.isfinite(scores[trial])]:
        raise NumericsError(
            f"bench quality: every training of the arm {diverged[0]} diverged. Lower train.learning_rate, in another "
            "run directory (--run-dir)."
        )
    return best


def _lowest(scores: Mapping[Trial, float]) -> dict[str, Trial]:
    """The best trial of each arm; of equal ones the first."""
    best: dict[str, Trial] = {}
    for trial, ce_nats in scores.items():
        if trial.arm.name not in best or ce_nats < scores[best[trial.arm.name]]:
            best[trial.arm.name] = trial
    return best
