"""The kit for notebooks as its files are: the notebook's code, and the script that fills a folder with wheels."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType
from typing import Any

from tests.source_tree import ROOT

KIT = ROOT / "configs" / "kaggle"


def notebook() -> dict[str, Any]:
    """The notebook as JSON."""
    value: dict[str, Any] = json.loads((KIT / "sad-pipeline.ipynb").read_text(encoding="utf-8"))
    return value


def notebook_code() -> str:
    """All of its code."""
    return "\n".join("".join(cell["source"]) for cell in notebook()["cells"] if cell["cell_type"] == "code")


def wheelhouse() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("wheelhouse", KIT / "wheelhouse.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
