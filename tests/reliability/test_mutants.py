"""Do the suites bite? Each fsync, rename, lock, comparison and order is taken out in turn; a suite must turn red.

Every defect is held against the smallest suite that must notice it, and that suite is green without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.mutant import Copy
from tests.reliability.mutants import KINDS, MUTANTS
from tests.reliability.tally import LONG, Tally

SUITES = sorted({mutant.noticed_by for mutant in MUTANTS})


def test_each_applies_once_and_is_a_defect_of_its_own() -> None:
    sources = Counter(mutant.source() for mutant in MUTANTS)
    assert len(sources) == len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25
    assert {mutant.kind for mutant in MUTANTS} == set(KINDS)


@pytest.fixture(scope="module")
def tree(memory: Path) -> Iterator[Copy]:
    """The project, to be made worse."""
    with Copy(memory / "mutants") as copy:
        yield copy


@pytest.mark.skipif(not LONG, reason="part of the long size")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("suite", SUITES)
def test_a_defect_turns_its_suite_red(suite: str, tree: Copy, tally: Tally) -> None:
    whole = tree.run(suite)
    assert whole.is_green, f"without a defect:\n{whole.said}"
    survived = []
    for mutant in (mutant for mutant in MUTANTS if mutant.noticed_by == suite):
        ended = tree.run(suite, mutant)
        if ended.is_red:
            tally.point(mutant.kind)
        else:
            survived.append(f"{mutant.name}: exit code {ended.code}\n{ended.said}")
    assert not survived, "\n\n".join(survived)
