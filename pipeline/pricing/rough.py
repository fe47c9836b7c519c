"""What a cached token takes, about, before a teacher has been asked: measured with a weak one, scaled by the head.

`sad-pipeline estimate` measures it with the teacher at hand; a real one's ids take more, a surer one's fewer.
"""

from __future__ import annotations

from pipeline.cache.settings import DEFAULTS, CacheSettings

_OF_THE_HEAD = {"fine": 256, "small": 210, "lossless": 820}
_OF_A_DRAW = {"fine": 2.2, "small": 2.1, "lossless": 4.35}
_OF_THE_REST = {"fine": 15, "small": 14, "lossless": 33}
"""bytes of 256 ids with their log-probabilities, of a draw, and of everything else: artifacts/cache-evidence.md, D"""
_COMPACT_HEAD = 57
"""of at most 64 ids, `fine`"""
_SAMPLED = 40
"""of 50 draws"""
_SMALL_VOCABULARY = 2**16
"""ids of more take four bytes in the packed sequences, ids of fewer two"""


def rough_bytes_per_token(settings: CacheSettings, vocab_size: int) -> float:
    """Bytes of a record and of the id beside it."""
    id_bytes = 2 if vocab_size <= _SMALL_VOCABULARY else 4
    if settings.kind == "sampled":
        return _SAMPLED * settings.num_draws / float(DEFAULTS["sampled"]["num_draws"]) + id_bytes
    precision = settings.precision
    head = _OF_THE_HEAD[precision]
    rest = _OF_THE_REST[precision] + _OF_A_DRAW[precision] * settings.num_draws
    if settings.kind == "compact":
        head = round(_COMPACT_HEAD * head / _OF_THE_HEAD["fine"])
    share = min(settings.head_size, vocab_size) / float(DEFAULTS[settings.kind]["head_size"])
    return head * share + rest + id_bytes
