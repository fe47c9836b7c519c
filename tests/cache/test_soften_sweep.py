"""Softening at every temperature, for rows and vocabularies of every size: bounds of what `soften_table` prints.

What a record says at a temperature between the stored ones has two errors. The polynomial's: small where log tail mass
bends gently, as it does for any row that falls off or spreads like a bell; large where the tail is two far levels of
equal ids. And the codec's: half a step of 1/256 nat on each log tail mass, of which the polynomial's weights make at
most 1.95 halves, and the rounding of the head.
"""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from pipeline.cache.precisions import PRECISIONS, TAIL_STEP_NATS
from pipeline.cache.records import tail_weights
from pipeline.cache.settings import BETAS
from tests.cache.soften_table import KINKED, VOCAB_SIZES, Errors, Truth, cases, record, rows_of, worst

ROUNDED_TAIL = 1.95 * TAIL_STEP_NATS / 2
"""0.0038 nat: the most that the codec's steps add to A(β)"""
FAR = 1.2e-3
"""two roundings of a float32 near 1e4: `masked` rows whose head or tail holds such logits"""

ORDINARY = {
    "lossless": Errors(head=8e-4, log_z=8e-4, tail_mass=1e-3, tail=5e-4, kl=1e-6, apart=2e-5),
    "fine": Errors(head=0.0, log_z=0.008, tail_mass=1e-3 + ROUNDED_TAIL, tail=0.01, kl=1.6e-4, apart=2e-5),
    "small": Errors(head=0.0, log_z=0.035, tail_mass=1e-3 + ROUNDED_TAIL, tail=0.035, kl=1.1e-3, apart=2e-5),
}
"""rows as trained teachers have them, from V = 300 to 262,144. Largest at τ between 2.4 and 2.5 and at 1.25 (A), near
1.5 (KL); `log_z` and `tail` of `fine` and `small` are those of a likeliest id that is rounded, not of the tail"""

TAIL_MASS = {
    "kinks": {300: 6e-4, 4096: 1.5e-3, 49152: 0.0105, 151936: 0.0205, 262144: 0.0275},
    "steps": {300: 0.0095, 4096: 0.09, 49152: 0.185, 151936: 0.24, 262144: 0.265},
}
"""A(β) of tails of two levels, by V: 1,000 equal ids (`kinks`) or 1 to 300 (`steps`) above all others. It grows with
the number of ids below; the worst is one id 31.5 nats above 261,887 others"""
LOG_Z = {"kinks": 0.025, "steps": 0.045}
"""far less than A's, for where A bends most the head holds most of the mass"""
KL = {"kinks": 5e-5, "steps": 1.4e-3}


def bound(kind: str, vocab_size: int, precision: str) -> Errors:
    """What errors may be."""
    ordinary = ORDINARY[precision]
    if kind == "masked":
        return Errors(*(value + FAR * (at not in (1, 4)) for at, value in enumerate(astuple(ordinary))))
    if kind not in KINKED:
        return ordinary
    tail_mass, log_z = TAIL_MASS[kind][vocab_size], LOG_Z[kind]
    rounded = 0.0 if precision == "lossless" else ROUNDED_TAIL
    head = log_z if precision == "lossless" else 0.0
    return Errors(head, log_z + rounded, tail_mass + rounded, tail_mass + rounded, KL[kind] + 2e-6, 2e-5)


@pytest.mark.parametrize(("kind", "vocab_size"), cases())
def test_softened_records_are_the_whole_distribution(kind: str, vocab_size: int) -> None:
    """Head, normaliser, tail and KL, by numpy and by torch, at 61 temperatures from 1 to 4, in every precision."""
    for precision, (errors, _) in worst(kind, vocab_size).items():
        allowed = bound(kind, vocab_size, precision)
        over = [(found, most) for found, most in zip(astuple(errors), astuple(allowed), strict=True) if found > most]
        assert not over, f"{precision}: {errors}, allowed {allowed}"


@pytest.mark.parametrize("kind", KINKED)
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_where_the_largest_error_lies(kind: str, vocab_size: int) -> None:
    """The bounds of rows with kinks are what is found, within a tenth: halfway between the stored 1/3 and 1/2."""
    errors, temperature = worst(kind, vocab_size)["lossless"]
    assert errors.tail_mass > 0.9 * TAIL_MASS[kind][vocab_size]
    assert temperature == pytest.approx(2.45)


@pytest.mark.parametrize("kind", ["zipf", "kinks", "steps", "spike"])
def test_stored_temperatures_are_exact(kind: str) -> None:
    """There no polynomial has a say, whatever the row: float32 is all that is between."""
    logits_NV, temperatures = rows_of(kind, 49152), [1 / beta for beta in BETAS]
    for precision, step_nats in (("lossless", 0.0), ("fine", TAIL_STEP_NATS)):
        records = record(logits_NV, precision)
        truth = Truth.of(logits_NV, records.ids_TK, temperatures)
        for temperature in temperatures:
            assert truth.errors(records, temperature).tail_mass < step_nats / 2 + 2e-5


@pytest.mark.parametrize("kind", ["random", "zipf", "spike", "masked", "uniform", "kinks"])
def test_rounding_adds_at_most_the_promised_divergence(kind: str) -> None:
    """At τ = 1, 2 and 3 `fine` promises 1e-4 nat and `small` 1e-3, to second order; between them it is half as much
    again at most."""
    for precision, promised in (("fine", 1e-4), ("small", 1e-3)):
        assert PRECISIONS[precision].law.target_nats == promised
        for vocab_size in (4096, 262144):
            logits_NV = rows_of(kind, vocab_size)
            records = record(logits_NV, precision)
            truth = Truth.of(logits_NV, records.ids_TK, (1.0, 2.0, 3.0))
            for temperature in (1.0, 2.0, 3.0):
                assert truth.errors(records, temperature).kl < 1.15 * promised


def test_the_weights_of_the_polynomial_stay_small() -> None:
    """Σ |w| is how much an error of the stored masses can grow: 1.95 at most, near τ = 1.24."""
    temperatures = np.linspace(1.0, 4.0, 3001)
    sums = [np.abs(tail_weights(BETAS, 1 / temperature)).sum() for temperature in temperatures]
    assert max(sums) == pytest.approx(1.945, abs=0.005)
    assert temperatures[np.argmax(sums)] == pytest.approx(1.24, abs=0.01)
