"""What a student is worth: measures, samples of text, and the page that shows them."""

from __future__ import annotations

from pipeline.lazy_names import lazy_names

_HOME = {
    "EvalResult": "summary",
    "Measures": "measures",
    "measure_model": "measures",
    "teacher_measures": "measures",
    "render_page": "page",
}
__all__ = sorted(_HOME)

__getattr__ = lazy_names(__name__, _HOME)
