"""Reading a cache needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pipeline.cache

_MODULES = sorted(path.stem for path in Path(pipeline.cache.__file__).parent.glob("*.py"))
_LOADED = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(f"pipeline.cache.{module}")
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_the_room_is_free_of_torch() -> None:
    found = subprocess.run([sys.executable, "-c", _LOADED, *_MODULES], capture_output=True, text=True, check=True)
    assert "zarr" in found.stdout.split()
    assert not {"torch", "transformers", "datasets", "pyarrow"} & set(found.stdout.split())


def test_settings_load_neither_zarr_nor_numpy() -> None:
    found = subprocess.run([sys.executable, "-c", _LOADED, "settings"], capture_output=True, text=True, check=True)
    assert not {"zarr", "numpy", "xxhash"} & set(found.stdout.split())


def test_exports() -> None:
    for name in pipeline.cache.__all__:
        assert getattr(pipeline.cache, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = pipeline.cache.Nothing
