"""What can happen to a cache, and the law it is held to: exactly the right data, or a typed error."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import TeacherCache
from pipeline.cache.plan import DATA_REPORT_NAME
from pipeline.cache.repair import repair
from pipeline.cache.roots import find_tokenizer
from pipeline.cache.seal import SEAL_SUFFIX
from pipeline.cache.verify import Problem, verify_cache
from pipeline.data.documents import Document, TokenizedDocument
from pipeline.data.planned_tokenizer import planned_tokenizer
from pipeline.data.report import DataReport
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import IncompleteInputError, SadError
from tests.reliability.damaging import Place, harms_of, other_tokenizer, swap, within

_TEXT = "def encode(a, e):  # aeae ÄÖ\n"


# ------------------------------------------------------------------ what can happen to a cache


def places(cache: Path, stale: Path) -> list[Place]:
    """Every way to damage a cache, in a fixed order."""
    shards, seals = (sorted((cache / "shards").glob(pattern)) for pattern in ("*.shard", "*.seal.json"))
    texts = sorted((cache / "tokenizer").iterdir())
    return [
        *harms_of("plan", [cache / "plan.json"]),
        *harms_of("sequences", [cache / "sequences.shard"]),
        *harms_of("data report", [cache / "data_report.json"]),
        *within("shards", harms_of("shard", shards)),
        *within("shards", harms_of("seal", seals)),
        *(place for path in texts for place in within("tokenizer", harms_of(path.name, [path]))),
        *_swaps([path.name.partition(".")[0] for path in shards]),
        *_stale_files(stale, [path.name.partition(".")[0] for path in shards]),
        *_extra_files(stale),
    ]


def _swaps(numbers: list[str]) -> list[Place]:
    def swapped(*suffixes: str) -> Any:
        def harm(cache: Path, chance: random.Random) -> list[str]:
            one, other = chance.sample(numbers, 2)
            for suffix in suffixes:
                swap(cache / "shards", one + suffix, other + suffix)
            return [f"shards/{number}{suffix}" for number in (one, other) for suffix in suffixes]

        return harm

    def sequences(cache: Path, chance: random.Random) -> list[str]:
        names = ["sequences.shard", f"shards/{chance.choice(numbers)}.shard"]
        swap(cache, *names)
        return names

    return [
        Place("shards swapped", swapped(".shard")),
        Place("seals swapped", swapped(".seal.json")),
        Place("shards swapped with their seals", swapped(".shard", ".seal.json")),
        Place("sequences and a shard swapped", sequences),
    ]


def _stale_files(stale: Path, numbers: list[str]) -> list[Place]:
    def taken(*patterns: str) -> Any:
        def harm(cache: Path, chance: random.Random) -> list[str]:
            names = [pattern.format(chance.choice(numbers)) for pattern in patterns[:1]]
            names += [pattern.format(names[0].partition("/")[2][:5]) for pattern in patterns[1:]]
            for name in names:
                shutil.copyfile(stale / name, cache / name)
            return names

        return harm

    def all_shards(cache: Path, chance: random.Random) -> list[str]:
        shutil.copytree(stale / "shards", cache / "shards", dirs_exist_ok=True)
        return [f"shards/{path.name}" for path in (cache / "shards").iterdir()]

    def tokenizer(cache: Path, chance: random.Random) -> list[str]:
        other_tokenizer(cache / "tokenizer" / "tokenizer.json")
        return ["tokenizer/tokenizer.json"]

    return [
        Place("stale shard", taken("shards/{}.shard")),
        Place("stale seal", taken("shards/{}.seal.json")),
        Place("stale shard with its seal", taken("shards/{}.shard", "shards/{}.seal.json")),
        Place("stale plan", taken("plan.json")),
        Place("stale plan and sequences", taken("plan.json", "sequences.shard")),
        Place("stale sequences", taken("sequences.shard")),
        Place("stale shards, all of them", all_shards),
        Place("stale tokenizer", tokenizer),
    ]


def _extra_files(stale: Path) -> list[Place]:
    def file(*names: str) -> Any:
        def harm(cache: Path, chance: random.Random) -> list[str]:
            for name in names:
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                (cache / name).write_bytes(chance.randbytes(200))
            return list(names)

        return harm

    def shard(cache: Path, chance: random.Random) -> list[str]:
        for suffix in (".shard", ".seal.json"):
            shutil.copyfile(cache / f"shards/00001{suffix}", cache / f"shards/00099{suffix}")
        return ["shards/00099.seal.json"]

    def cache_below(cache: Path, chance: random.Random) -> list[str]:
        shutil.copytree(stale, cache / "older")
        return ["older/plan.json"]

    return [
        Place("extra file", file("notes.txt")),
        Place("extra file beside the shards", file("shards/00000.shard.bak")),
        Place("extra shard", file("shards/00099.shard")),
        Place("extra seal", file("shards/00099.seal.json")),
        Place("extra shard with a seal", shard),
        Place("extra cache", cache_below),
        Place("extra rest of a crash", file("shards/.00000.shard.0123456789ab.tmp", ".plan.json.ba9876543210.tmp")),
    ]


# ------------------------------------------------------------------ the law


def everything(folder: Path) -> dict[str, Any]:
    """All that a cache gives its readers, as digests."""
    with TeacherCache.open(folder) as cache:
        sequences, records = cache.read(np.arange(len(cache)))
        facts = [array for span in cache.plan.shards for array in cache.facts(span)]
        report = folder / DATA_REPORT_NAME
        parts = [sequences.input_ids, sequences.loss_mask, sequences.document_starts, sequences.split]
        return {
            "plan": cache.plan.hash,
            "sequences": [_digest(part) for part in (*parts, sequences.num_bytes)],
            "records": [_digest(part) for part in records.fields()],
            "facts": [_digest(part) for part in facts],
            "statistics": repr(cache.statistics),
            "words": _words(planned_tokenizer(find_tokenizer(cache.folders), cache.plan.identity["tokenizer"])),
            "report": DataReport.load(report) if report.is_file() else None,
        }


def _words(tokenizer: Tokenizer) -> list[Any]:
    """What ids mean, and what a text becomes."""
    document = Document("one", _TEXT)
    [encoded] = tokenizer.encode([document])
    assert isinstance(encoded, TokenizedDocument)
    return [encoded.ids.tolist(), *(tokenizer.decode([token]) for token in range(tokenizer.vocab_size))]


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes() + str((array.dtype, array.shape)).encode()).hexdigest()


def check_reading(cache: Path, right: dict[str, Any]) -> str | None:
    """Exactly the right data, or a typed error, which is returned."""
    try:
        found = everything(cache)
    except SadError as error:
        return f"{type(error).__name__}: {error}"
    if found["report"] is None:  # an older version wrote none; the report page leaves its section out
        found["report"] = right["report"]
    assert found == right, {key for key in right if found[key] != right[key]}
    return None


def check_verify(cache: Path, place: Place, harmed: list[str], refused: str | None) -> list[Problem]:
    """Every file that was harmed is named, and so is what readers refuse."""
    problems = problems_of(cache)
    said = "\n".join(map(str, problems))
    for name in harmed:
        if not _needs_no_word(cache, place, name, refused):
            assert _named(name) in said, f"{name} is not named in: {said or 'nothing'}"
    if refused and not any(absent(cache, name) for name in harmed):
        assert problems, f"verify sees nothing, and readers say {refused}"
    return problems


def problems_of(cache: Path) -> list[Problem]:
    """What verify says; a plan that is gone is a typed error of its own."""
    try:
        return verify_cache(cache, (), planned_tokenizer, DataReport.load)
    except IncompleteInputError as error:
        return [Problem(cache / "plan.json", str(error), "")]


def _needs_no_word(cache: Path, place: Place, name: str, refused: str | None) -> bool:
    """A shard without its seal counts as absent, hidden files as nobody's, a tokenizer by what it does.

    A data report that is gone is one that an older version never wrote, and a plan of another cache is as
    good as any: it is the rest that does not belong to it.
    """
    behaves = name.startswith("tokenizer/") and refused is None
    counts_as_none = absent(cache, name) and not place.name.startswith("extra")
    optional = place.name == "missing data report"
    return (
        behaves or counts_as_none or optional or Path(name).name.startswith(".") or place.name.startswith("stale plan")
    )


def absent(cache: Path, name: str) -> bool:
    """Whether the shard of a file has no seal, and so is as one that was never computed."""
    return name.startswith("shards/") and not (cache / "shards" / f"{_number(name)}{SEAL_SUFFIX}").is_file()


def _number(name: str) -> str:
    return Path(name).name.partition(".")[0]


def _named(name: str) -> str:
    """How a message names a file: a tokenizer by its folder, a shard and its seal by their number."""
    if name.startswith("tokenizer/"):
        return "/tokenizer"
    known = name.startswith("shards/") and name.endswith((".shard", SEAL_SUFFIX))
    return f"shards/{_number(name)}." if known else name


def check_repair(cache: Path, place: Place, harmed: list[str], problems: list[Problem]) -> set[str] | None:
    """Just the damaged shards are taken out, each with its seal; returns their numbers.

    None where the plan, or seals of another cache, must be seen to first: then nothing is touched.
    """
    before = {path.name for path in (cache / "shards").iterdir()}
    files = [name for name in harmed if name.startswith("shards/") and name.endswith((".shard", SEAL_SUFFIX))]
    expected = {_number(name) for name in files if not absent(cache, name)}
    removed = {path.name.partition(".")[0] for path in repair(cache, problems)}
    left = {path.name for path in (cache / "shards").iterdir()}
    if other_cache(place):
        assert (removed, left) == (set(), before)
        return None
    assert removed == expected, f"removed {removed}, damaged were {expected}"
    assert left == {name for name in before if _number(name) not in removed or name.endswith(".bak")}
    assert not any("/shards/" in str(problem.path) and problem.repairable for problem in problems_of(cache))
    return removed


def other_cache(place: Place) -> bool:
    """Whether a cache is left that a person must look at: its plan is lost, or mixed with another's."""
    names = ("stale seal", "stale shard with", "stale shards", "stale plan", "extra cache")
    return place.name.startswith(names) or place.name.partition(",")[0].endswith(" plan")
