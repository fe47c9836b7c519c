"""Every key of a config is of one kind, and two sets of keys are compared by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.config import Section, differences, identity, keys_of_kind, schedule
from stages.config import RunConfig, load_run_config


def leaves(schema: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in schema.model_fields.items():
        sections = [part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, Section)]
        for section in sections:
            yield from leaves(section, f"{prefix}{name}.")
        if not sections:
            yield prefix + name, field


def _parts(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", (annotation,))


def test_every_key_has_a_kind_and_a_word_about_it() -> None:
    for key, field in leaves(RunConfig):
        assert field.json_schema_extra in ({"kind": "identity"}, {"kind": "schedule"}, {"kind": "free"}), key
    undocumented = [key for key, field in leaves(RunConfig) if not field.description]
    assert len(undocumented) <= 4, undocumented  # names that say it all


def test_the_kinds_together_are_all_keys() -> None:
    config = load_run_config("demo")
    kinds = [keys_of_kind(config, kind) for kind in ("identity", "schedule", "free")]
    assert sum(map(len, kinds)) == len(kinds[0] | kinds[1] | kinds[2])
    assert set(kinds[0] | kinds[1] | kinds[2]) == {key for key, _ in leaves(RunConfig)}


def test_kinds_are_where_they_matter() -> None:
    config = load_run_config("demo")
    identities, schedules, frees = (keys_of_kind(config, kind) for kind in ("identity", "schedule", "free"))
    assert {"cache.head_size", "data.sequence_length", "cache.draw_beta", "teacher.dtype"} <= set(identities)
    assert {"train.steps", "train.learning_rate", "train.temperature.start", "student.config"} <= set(schedules)
    assert {"name", "cache.roots", "train.log_every", "data.path"} <= set(frees)
    assert {key.partition(".")[0] for key in identities} <= {"data", "teacher", "cache"}
    assert {key.partition(".")[0] for key in schedules} <= {"student", "train"}


def test_differences_show_before_and_now() -> None:
    class Small(Section):
        size: int = identity(3)
        speed: float = schedule(1.0)

    before = keys_of_kind(Small(), "identity") | keys_of_kind(Small(), "schedule")
    after = keys_of_kind(Small(size=4), "identity") | {"new": 1}
    assert differences(before, before) == []
    assert differences(before, after) == [
        "  new: '(absent)' -> 1",
        "  size: 3 -> 4",
        "  speed: 1.0 -> '(absent)'",
    ]
