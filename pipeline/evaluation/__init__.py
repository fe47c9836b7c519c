"""What a student is worth: measures, samples of text, and the page that shows them."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "EvalResult": "summary",
    "Measures": "measures",
    "measure_model": "measures",
    "teacher_measures": "measures",
    "render_page": "page",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
