"""How finely each log-probability of a head is stored: bits go where rounding would change the softened target.

Rounding entry i by at most D_i/2 adds, to second order, Σ_i p_τ(i)·β²·D_i²/24 to KL(exact ‖ stored) at τ = 1/β. So a
likely entry needs a fine step and an unlikely one does not. With d = log p − floor, the distance from the row's lowest
entry, the step shrinks as

    D_i = D·e^(−d/3)     down to a smallest step;     code k = rint( 3·(e^(d/3) − 1)/D ), linear beyond

and each row has the largest D of a grid of eighths of a power of two for which the sum above is within `target_nats`
at τ = 1, 2 and 3. So much is expected to second order in every row, whatever the teacher; found is up to 1.3 times that
in the worst rows, and less in the mean. The floor is the anchor, not the maximum, because most of a head crowds just
above its lowest entry.

Letters: **N** rows, **K** entries. Nats everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SPAN_NATS = 80.0
"""An entry further below the row's likeliest is stored as this far below: at τ = 4 under 3e-9 of its mass"""
FLOOR_STEP_NATS = 1 / 256
TARGET_BETAS = (1.0, 1 / 2, 1 / 3)
"""1/τ at which the added KL is bounded"""
_LENGTH_NATS = 3.0  # over which the step shrinks by e
_STEPS_AN_OCTAVE = 8
_CURVATURE = 1.06  # a cell is wider on its lower side than its middle's step says
_BLOCK_ENTRIES = 2**15
_TABLE_STEP_NATS = 2.0**-16  # coarser than what two libraries' logarithms differ by, so that all make one table


@dataclass(frozen=True, slots=True, eq=False)
class ValueLaw:
    """Steps from `largest_step_nats` to `smallest_step_nats`, so that rounding adds at most `target_nats` of KL."""

    target_nats: float
    largest_step_nats: float
    smallest_step_nats: float
    _steps_J: NDArray[np.float64] = field(init=False)
    _bends_J: NDArray[np.float64] = field(init=False)
    _table_JW: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        octaves = np.log2(self.largest_step_nats / self.smallest_step_nats)
        steps_J = self.largest_step_nats * 2.0 ** (-np.arange(round(octaves * _STEPS_AN_OCTAVE) + 1) / _STEPS_AN_OCTAVE)
        bends_J = _LENGTH_NATS * np.log(steps_J / self.smallest_step_nats)
        for name, value in (("_steps_J", steps_J), ("_bends_J", bends_J), ("_table_JW", self._table(steps_J, bends_J))):
            object.__setattr__(self, name, value)

    def error_nats(self, logprobs: NDArray[np.floating]) -> NDArray[np.float64]:
        """Largest error of a stored log p above the row's span: half the largest step, or √(6·target/p)."""
        by_mass = np.sqrt(6 * self.target_nats * np.exp(-np.maximum(logprobs.astype(np.float64), -700.0)))
        return np.minimum(by_mass, self.largest_step_nats / 2) * _CURVATURE + _TABLE_STEP_NATS

    def encode(
        self, logprobs_NK: NDArray[np.float32], tail_N3: NDArray[np.float64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint32]]:
        """Floors in steps of 1/256 nat [N], numbers of the rows' steps [N], codes [N, K].

        `tail_N3` are log tail masses at TARGET_BETAS; −inf for an empty tail. Entries of −inf are padding: code 0.
        """
        present_NK = logprobs_NK > -np.inf
        lowest_N = np.where(present_NK, logprobs_NK, np.float32(np.inf)).min(axis=1)
        lowest_N = np.maximum(lowest_N, logprobs_NK.max(axis=1) - np.float32(SPAN_NATS))
        floors_N = np.floor(lowest_N.astype(np.float64) / FLOOR_STEP_NATS).astype(np.int32)
        d_NK = np.maximum(logprobs_NK - (floors_N * FLOOR_STEP_NATS).astype(np.float32)[:, None], np.float32(0.0))
        sixth_NK = np.exp(d_NK * np.float32(0.5 / _LENGTH_NATS))
        growth_NK = sixth_NK * sixth_NK
        relative_N3 = tail_N3 - np.outer(floors_N * FLOOR_STEP_NATS, TARGET_BETAS)
        numbers_N = self._choose_steps(sixth_NK, growth_NK, relative_N3, present_NK)
        step_N1 = self._steps_J[numbers_N].astype(np.float32)[:, None]
        bend_N1 = self._bends_J[numbers_N].astype(np.float32)[:, None]
        curved_NK = (growth_NK - np.float32(1.0)) * (np.float32(_LENGTH_NATS) / step_N1)
        straight_NK = (d_NK - bend_N1) * np.float32(1 / self.smallest_step_nats)
        straight_NK += self._bend_codes(self._steps_J)[numbers_N].astype(np.float32)[:, None]
        return floors_N, numbers_N, np.rint(np.where(d_NK <= bend_N1, curved_NK, straight_NK)).astype(np.uint32)

    def decode(
        self,
        floors_N: NDArray[np.int32],
        numbers_N: NDArray[np.int32],
        codes_NK: NDArray[np.uint16] | NDArray[np.uint32],
        logprobs_NK: NDArray[np.float32],
    ) -> None:
        """Put log-probabilities into `logprobs_NK`; ValueError for numbers that no encoder writes.

        In blocks of rows, whose scratch is small enough to be used again: fresh pages take longer than the arithmetic.
        """
        num_steps, width = self._table_JW.shape
        if numbers_N.size and (int(numbers_N.min()) < 0 or int(numbers_N.max()) >= num_steps):
            raise ValueError(f"a row's step has a number outside 0..{num_steps - 1}")
        if codes_NK.size and int(codes_NK.max()) >= width:
            raise ValueError(f"a value has the code {int(codes_NK.max())}, outside 0..{width - 1}")
        table, begins_N1 = self._table_JW.reshape(-1), (numbers_N * np.int32(width))[:, None]
        floors_N1 = (floors_N * FLOOR_STEP_NATS).astype(np.float32)[:, None]
        num_rows = max(1, _BLOCK_ENTRIES // max(1, codes_NK.shape[1]))
        for start in range(0, len(codes_NK), num_rows):
            rows = slice(start, start + num_rows)
            out_bK = logprobs_NK[rows]
            # All places were checked above; "wrap" spares the copy that "raise" makes of its output.
            table.take(codes_NK[rows] + begins_N1[rows], out=out_bK, mode="wrap")
            out_bK += floors_N1[rows]

    def _choose_steps(
        self,
        sixth_NK: NDArray[np.float32],
        growth_NK: NDArray[np.float32],
        tail_N3: NDArray[np.float64],
        present_NK: NDArray[np.bool_],
    ) -> NDArray[np.int32]:
        """Number of each row's step, from e^(d/6), e^(d/3) and the tail's mass relative to the floor's."""
        shrink_NK = np.reciprocal(growth_NK * growth_NK)  # (D_i/D)² = e^(−2d/3)
        powers = (growth_NK * growth_NK * growth_NK, growth_NK * sixth_NK, growth_NK)  # e^(βd) for TARGET_BETAS
        worst_N = np.zeros(len(growth_NK))
        padded = not present_NK.all()
        for beta, power_NK, tail_N in zip(TARGET_BETAS, powers, tail_N3.T, strict=True):
            power_NK = np.where(present_NK, power_NK, np.float32(0.0)) if padded else power_NK
            mass_N = power_NK.sum(axis=1, dtype=np.float64) + np.exp(np.minimum(tail_N, 700.0))
            spread_N = (power_NK * shrink_NK).sum(axis=1, dtype=np.float64)
            np.maximum(worst_N, beta**2 * spread_N / mass_N, out=worst_N)
        wanted_N = np.sqrt(24 * self.target_nats / np.maximum(worst_N, 1e-300))
        numbers_N = np.ceil(np.log2(self.largest_step_nats / wanted_N) * _STEPS_AN_OCTAVE - 1e-9)
        return np.clip(numbers_N, 0, len(self._steps_J) - 1).astype(np.int32)

    def _bend_codes(self, steps_J: NDArray[np.float64]) -> NDArray[np.float64]:
        """The code at which each law's step has shrunk to the smallest."""
        return _LENGTH_NATS * (1 / self.smallest_step_nats - 1 / steps_J)

    def _table(self, steps_J: NDArray[np.float64], bends_J: NDArray[np.float64]) -> NDArray[np.float32]:
        """Distance from the floor of every code, for every step [J, W]."""
        bend_codes_J = self._bend_codes(steps_J)
        codes_W = np.arange(int(bend_codes_J.max() + (SPAN_NATS + 1) / self.smallest_step_nats) + 2)
        curved_JW = _LENGTH_NATS * np.log1p(codes_W * steps_J[:, None] / _LENGTH_NATS)
        straight_JW = bends_J[:, None] + (codes_W - bend_codes_J[:, None]) * self.smallest_step_nats
        table_JW = np.where(codes_W <= bend_codes_J[:, None], curved_JW, straight_JW)
        return (np.rint(table_JW / _TABLE_STEP_NATS) * _TABLE_STEP_NATS).astype(np.float32)
