"""The Python that README.md shows runs on a cache as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.typed_commands import README, blocks


def test_the_python_shown_runs(cached: Path) -> None:
    [code] = blocks(README, "python")
    names: dict[str, Any] = {}
    exec(code.replace("artifacts/my-student", str(cached)), names)
    records = names["sequence"].records
    assert names["logp_head_TK"].shape == records.ids_TK.shape
    everything_T = np.exp(names["logp_head_TK"]).sum(axis=1) + np.exp(names["logp_tail_T"])
    assert everything_T[names["sequence"].loss_mask_T] == pytest.approx(1.0, abs=1e-4)
