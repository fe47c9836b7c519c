"""What the records of a cache look like in numbers: how much mass the head keeps, how sure the teacher is.

Statistics are a flat JSON object, the same for one shard and for a whole cache:

    num_scored                          positions they speak of
    retained_mass_mean_tau_1 (_2, _3)   mean mass of the head at that temperature (not of the kind `sampled`)
    retained_mass_median_tau_1 (_2, _3) its median, from the histogram, to within half a bin
    retained_mass_histogram_tau_1 ...   positions in each of 100 equal bins of [0, 1]
    entropy_mean_nats                   of the teacher
    label_logprob_mean_nats             log p of the label
    bytes_per_scored_position           bytes on disk, added by the writer
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.layout import RecordLayout
from pipeline.cache.records import Records

TEMPERATURES = (1, 2, 3)
NUM_BINS = 100
Statistics = dict[str, Any]


class StatisticsSum:
    """Statistics of records that come in parts.

    Sums are kept a sequence and added exactly at the end, so the result does not depend on how the parts were cut.
    """

    def __init__(self) -> None:
        self._sums: list[NDArray[np.float64]] = []
        self._histograms: dict[int, NDArray[np.int64]] = {}
        self.num_scored = 0

    def add(self, records: Records, loss_mask_ST: NDArray[np.bool_]) -> None:
        """Count the scored positions of S whole sequences; records [S·T] in the order of the mask."""
        scored = records.rows(loss_mask_ST.reshape(-1))
        columns = [scored.entropies_T, scored.label_logprobs_T]
        for temperature in temperatures_of(records.layout):
            retained_T = -np.expm1(scored.soften(temperature)[1].astype(np.float64))
            bins_T = np.minimum((retained_T * NUM_BINS).astype(np.int64), NUM_BINS - 1)
            counts = np.bincount(bins_T, minlength=NUM_BINS)
            self._histograms[temperature] = self._histograms.get(temperature, 0) + counts
            columns.append(retained_T)
        bounds = np.cumsum(loss_mask_ST.sum(axis=1))[:-1]
        self._sums += [part.sum(axis=0) for part in np.split(np.stack(columns, 1).astype(np.float64), bounds)]
        self.num_scored += len(scored)

    def result(self) -> Statistics:
        """The statistics of everything added."""
        totals = [math.fsum(column) for column in zip(*self._sums, strict=True)] or [0.0, 0.0]
        means = [total / max(1, self.num_scored) for total in totals]
        statistics: Statistics = {
            "num_scored": self.num_scored,
            "entropy_mean_nats": means[0],
            "label_logprob_mean_nats": means[1],
        }
        for (temperature, histogram), mean in zip(self._histograms.items(), means[2:], strict=True):
            statistics[f"retained_mass_mean_tau_{temperature}"] = mean
            statistics |= _histogram_entries(temperature, histogram)
        return statistics


def merge(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of several shards together: means weighted by scored positions, medians from the joined histograms."""
    num_scored = sum(part["num_scored"] for part in parts)
    merged: Statistics = {"num_scored": num_scored}
    for name in [name for name in (parts[0] if parts else {}) if "_mean_" in name or name.startswith("bytes_")]:
        merged[name] = math.fsum(part[name] * part["num_scored"] for part in parts) / max(1, num_scored)
    for temperature in temperatures_in(merged):
        histogram = np.sum([part[f"retained_mass_histogram_tau_{temperature}"] for part in parts], axis=0)
        merged |= _histogram_entries(temperature, histogram)
    return merged


def temperatures_of(layout: RecordLayout) -> tuple[int, ...]:
    """At which the mass of the head says something: `sampled` knows one temperature, and a head that is all it has."""
    return () if layout.kind == "sampled" else TEMPERATURES


def temperatures_in(statistics: Statistics) -> tuple[int, ...]:
    """At which these statistics speak of the mass of the head."""
    return tuple(tau for tau in TEMPERATURES if f"retained_mass_mean_tau_{tau}" in statistics)


def _histogram_entries(temperature: int, histogram: NDArray[np.int64]) -> Statistics:
    return {
        f"retained_mass_median_tau_{temperature}": _median(histogram),
        f"retained_mass_histogram_tau_{temperature}": histogram.tolist(),
    }


def _median(histogram: NDArray[np.int64]) -> float:
    total = int(histogram.sum())
    if total == 0:
        return 0.0
    middle = int(np.searchsorted(np.cumsum(histogram), total / 2))
    return (middle + 0.5) / NUM_BINS
