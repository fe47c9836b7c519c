"""The arms of the study: the default, and what differs from it in one factor each.

Full distillation is the reference: the same student and loop, with the teacher in memory and all V log-probabilities,
at the best temperature, weights, router and balance of those tried. K arms keep a sixteenth to a half of the default
head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.cache.settings import DEFAULTS
from pipeline.config_words import did_you_mean
from pipeline.distill.settings import WITHOUT_TEACHER
from pipeline.errors import ConfigError
from pipeline.evaluation.study.findings import DEFAULT, FULL, LABELS

_K_PARTS = (16, 8, 4, 2)
_COMPACT_PART = DEFAULTS["topk"]["head_size"] // DEFAULTS["compact"]["head_size"]  # its head beside that of topk

Changes = dict[str, Any]


def _weights(ce: float) -> Changes:
    return {"ce_weight": ce, "kd_weight": 1.0 - ce}


def _temperature(start: float, end: float) -> Changes:
    return {"temperature": {"start": start, "end": end}}


def _full(ce: float, temperature: float, router: str = "uniform", balance: bool = False) -> Changes:
    changes = {"objective": "bucket", "router": router, "balance": balance}
    return changes | _weights(ce) | _temperature(temperature, temperature)


FULL_CANDIDATES: Mapping[str, Changes] = {
    "ce0": _full(0.0, 1.0),
    "ce0_tau1_2": _full(0.0, 1.2),
    "ce0_05_tau1_2": _full(0.05, 1.2),
    "ce0_1": _full(0.1, 1.0),
    "ce0_1_tau1_2": _full(0.1, 1.2),
    "ce0_1_tau1_5": _full(0.1, 1.5),
    "ce0_5": _full(0.5, 1.0),
    "ce0_5_tau2": _full(0.5, 2.0),
    "ce0_1_routed": _full(0.1, 1.0, "learned"),
    "ce0_02_tau1_2_routed": _full(0.02, 1.2, "learned"),
    "ce0_1_tau1_2_routed": _full(0.1, 1.2, "learned"),
    "ce0_1_routed_balanced": _full(0.1, 1.0, "learned", balance=True),
    "ce0_05_tau1_2_routed_balanced": _full(0.05, 1.2, "learned", balance=True),
    "ce0_1_tau1_2_routed_balanced": _full(0.1, 1.2, "learned", balance=True),
}
"""What full distillation chooses from: the default's own among it, so that what is lost to a cache is lost to it alone.
The objective is exact with an empty tail"""


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One way to train, by what differs from the default."""

    name: str
    candidates: Mapping[str, Changes]
    """name -> changes of the train section; the best one counts"""
    cache: Changes = field(default_factory=dict)
    """changes of the cache section"""
    live: bool = False
    """whether the teacher is in memory and gives the records"""
    decides: bool = False
    """whether a default hangs on it: five seeds, and part of the short study"""

    @property
    def factors(self) -> set[str]:
        """What differs from the default: `cache`, or keys of train; the two weights are one factor."""
        keys = {key for changes in self.candidates.values() for key in changes}
        return {"weights" if key in ("ce_weight", "kd_weight") else key for key in keys} | (
            {"cache"} if self.cache else set()
        )

    def changes_of(self, candidate: str) -> Changes:
        """Config key -> value, of all that a candidate changes."""
        train, cache = self.candidates[candidate], self.cache
        return {f"train.{key}": value for key, value in train.items()} | {
            f"cache.{key}": value for key, value in cache.items()
        }


def _arm(name: str, changes: Changes, *, cache: Changes | None = None, decides: bool = False) -> Arm:
    return Arm(name, {"": changes}, cache or {}, decides=decides)


_UNBALANCED: Changes = {"balance": False}
"""of which a weight of the labels is tried, too, that comes near to what balance makes of theirs"""

BEGINNING = _arm("beginning", dict(WITHOUT_TEACHER))
"""no arm of its own: what a student of random weights learns from labels before every arm begins with it"""


def arms_of(head_size: int, vocab_size: int) -> tuple[Arm, ...]:
    """Every arm, for the default head size K and the vocabulary V of a study (0: not known)."""
    compact = {**DEFAULTS["compact"], "kind": "compact", "head_size": max(1, head_size // _COMPACT_PART)}
    unused = {"head_size": DEFAULTS["topk"]["head_size"], "precision": "fine"}  # as they are where nobody set them
    sampled = {**DEFAULTS["sampled"], "kind": "sampled", **unused}
    at_1 = _temperature(1.0, 1.0)
    num_draws = DEFAULTS["topk"]["num_draws"]
    of = f"of{vocab_size}" if vocab_size else ""
    sizes = dict.fromkeys(max(1, head_size // part) for part in _K_PARTS)
    return (
        _arm(LABELS, dict(WITHOUT_TEACHER), decides=True),
        Arm(FULL, FULL_CANDIDATES, live=True, decides=True),
        _arm(DEFAULT, {}, decides=True),
        _arm("bucket", {"objective": "bucket"}, decides=True),
        _arm("subset", {"objective": "subset"}, decides=True),
        _arm("compact", {}, cache=compact, decides=True),
        _arm("sampled", at_1, cache=sampled, decides=True),  # the only temperature it is right at
        _arm("tau1", at_1, decides=True),
        _arm("router_uniform", {"router": "uniform"}, decides=True),
        Arm("no_balance", {"": _UNBALANCED, "ce0_02": _UNBALANCED | _weights(0.02)}, decides=True),
        _arm(f"draws{num_draws // 2}", {}, cache={"num_draws": num_draws // 2}, decides=True),
        _arm("tau1_5", _temperature(1.5, 1.5)),
        _arm("tau2", _temperature(2.0, 2.0)),
        _arm("tau3to2", _temperature(3.0, 2.0)),
        _arm("ce0", _weights(0.0) | {"router": "uniform"}),  # one part of the loss: nothing to route
        _arm("ce0_05", _weights(0.05)),
        _arm("ce0_3", _weights(0.3)),
        _arm("ce0_5", _weights(0.5)),
        _arm("router_gap", {"router": "gap"}),
        _arm("router_trust", {"router": "trust"}),
        _arm("ranking", {"rank_weight": 0.1}),
        _arm("ema", {"ema_decay": 0.99}),
        *(_arm(f"k{size}{of}", {}, cache={"head_size": size}) for size in sizes),
    )


def chosen_arms(arms: Sequence[Arm], names: Sequence[str] | None, short: bool) -> tuple[Arm, ...]:
    """Those named, or (None) those of the short or the long study; labels and full are what all are held against.

    ConfigError for a name that no arm has.
    """
    known = [arm.name for arm in arms]
    if unknown := [name for name in names or () if name not in known]:
        near = did_you_mean(unknown, known) or "."
        raise ConfigError(f"--arms: no arm is called {', '.join(unknown)}{near} There are: {', '.join(known)}.")
    if names is not None:
        return tuple(arm for arm in arms if arm.name in (LABELS, FULL, *names))
    return tuple(arm for arm in arms if arm.decides or not short)
