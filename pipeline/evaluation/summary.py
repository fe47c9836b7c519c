"""What `eval` found, as it lies in eval.json and as people read it in a terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pipeline import files
from pipeline.errors import DamagedDataError, mended_by
from pipeline.evaluation.digests import check_digest, with_digest

FORMAT_VERSION = 1
_LEAK_MARK = "†"
Kind = Literal["teacher", "student", "initial", "baseline"]
Weights = Literal["raw", "ema"]
MemoryKind = Literal["gpu", "process"]


@dataclass(frozen=True, slots=True)
class Measures:
    """One model on held-out text: means over scored positions, at temperature 1. What was not measured is None."""

    cross_entropy_nats: float
    perplexity: float
    perplexity_capped: bool
    bits_per_byte: float | None  # None where the scored labels spell no text
    kl_bucket_nats: float | None = (
        None  # from the cache: a lower bound of KL(teacher || model); of `sampled` an estimate
    )
    kl_exact_nats: float | None = None  # the same over the whole vocabulary, where the teacher itself was at hand
    top1_agreement: float | None = None  # share of positions where model and teacher put the same id first
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    memory_kind: MemoryKind | None = None  # allocated on the card, or ever resident in the process


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow(Measures):
    """The measures of one model, with its name and where it came from."""

    name: str
    kind: Kind
    weights: Weights | None = None
    folder: str | None = None
    step: int | None = None  # a student: after which step of its training,
    num_steps: int | None = None  # of how many,
    training_hash: str | None = None  # and of which training
    leaks_documents: bool = False  # sees the documents before its own in a packed sequence

    @classmethod
    def of(
        cls,
        measures: Measures,
        name: str,
        kind: Kind,
        weights: Weights | None = None,
        folder: str | None = None,
        **more: Any,
    ) -> Self:
        """A row of the table."""
        return cls(**dataclasses.asdict(measures), name=name, kind=kind, weights=weights, folder=folder, **more)


@dataclass(frozen=True, slots=True)
class TextSample:
    """The beginning of a text, how it went on, and how each model goes on."""

    prompt: str
    reference: str | None
    continuations: dict[str, str]


@dataclass(frozen=True, slots=True)
class EvalData:
    """What the models were measured on."""

    num_sequences: int
    num_positions: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class EvalResult:
    """All figures of one evaluation."""

    data: EvalData
    environment: dict[str, str]
    rows: tuple[ModelRow, ...]
    samples: tuple[TextSample, ...]

    def to_json(self) -> dict[str, Any]:
        """As it lies in eval.json."""
        return with_digest({"format": FORMAT_VERSION, **dataclasses.asdict(self)})

    def best_student(self) -> ModelRow | None:
        """The student weights with the lower cross-entropy."""
        return self._best("student")

    def best_baseline(self) -> ModelRow | None:
        """The baseline with the lowest cross-entropy: the one worth beating."""
        return self._best("baseline")

    def last_student(self) -> ModelRow | None:
        """The student row of the latest step; None where no row says its step."""
        rows = [row for row in self.rows if row.kind == "student" and row.step is not None]
        return max(rows, key=lambda row: row.step or 0, default=None)

    def first(self, kind: Kind) -> ModelRow | None:
        """The first row of a kind."""
        return next((row for row in self.rows if row.kind == kind), None)

    def _best(self, kind: Kind) -> ModelRow | None:
        return min((row for row in self.rows if row.kind == kind), key=lambda row: row.cross_entropy_nats, default=None)


@dataclass(frozen=True, slots=True)
class Gain:
    """What distillation gained over the best baseline, on the same validation positions."""

    student: ModelRow
    baseline: ModelRow
    teacher: ModelRow | None

    @property
    def nats(self) -> float:
        """Cross-entropy of the baseline minus the student's: above 0, the student is better."""
        return self.baseline.cross_entropy_nats - self.student.cross_entropy_nats

    @property
    def gap_closed(self) -> float | None:
        """The gain as a share of the way from baseline to teacher; None unless the teacher is better than both."""
        if self.teacher is None:
            return None
        gap = self.baseline.cross_entropy_nats - self.teacher.cross_entropy_nats
        return self.nats / gap if self.nats > 0 and gap > self.nats else None


def gain_of(result: EvalResult) -> Gain | None:
    """The gain, or None where there is no student or no baseline to compare."""
    student, baseline = result.best_student(), result.best_baseline()
    return Gain(student, baseline, result.first("teacher")) if student and baseline else None


def save_result(path: Path, result: EvalResult) -> None:
    """Write eval.json."""
    files.write_json(path, result.to_json())


def load_result(path: Path) -> EvalResult:
    """Read eval.json; DamagedDataError when it is not what `save_result` writes."""
    with mended_by("Run `sad-pipeline eval` again to replace it."):
        value = files.read_json(path)
    if value.get("format") != FORMAT_VERSION:
        raise DamagedDataError(
            f"{path}: expected eval format {FORMAT_VERSION}, found {value.get('format')!r}. "
            "Run `sad-pipeline eval` again with this version."
        )
    try:
        result = EvalResult(
            data=EvalData(**value["data"]),
            environment=dict(value["environment"]),
            rows=tuple(ModelRow(**row) for row in value["rows"]),
            samples=tuple(TextSample(**sample) for sample in value["samples"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedDataError(
            f"{path}: a field is missing or unknown ({error}). Run `sad-pipeline eval` again to replace it."
        ) from error
    check_digest(value, path, "Run `sad-pipeline eval` again to replace it.")
    return result


# ------------------------------------------------------------------ words and tables


def row_title(row: ModelRow) -> str:
    """Name of a row with the weights it speaks of: "student (EMA)"."""
    return row.name if row.weights is None else f"{row.name} ({'EMA' if row.weights == 'ema' else row.weights})"


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of the table; `cell` gives "" where a row does not have it."""

    heading: str
    short: str  # for a terminal
    cell: Callable[[ModelRow], str]


def remarks_on(result: EvalResult) -> list[str]:
    """What must be known beside the figures, in sentences."""
    remarks = []
    if any(row.leaks_documents for row in result.rows):
        remarks.append(f"{_LEAK_MARK} This model sees the documents before its own in a packed sequence.")
    last = result.last_student()
    if last is not None and last.step is not None and last.num_steps is not None and last.step < last.num_steps:
        remarks.append(
            f"The student was measured at step {last.step:,} of {last.num_steps:,}: its training is not finished."
        )
    return remarks


def columns_of(result: EvalResult) -> list[Column]:
    """The columns some row has a figure for.

    Exact and lower-bound KL are two columns, GPU and process memory are two: unlike things are never mixed.
    """
    return [column for column in _COLUMNS if any(column.cell(row) for row in result.rows)]


def summary_table(result: EvalResult) -> Table:
    """The models side by side, narrow enough for a terminal of 80 characters."""
    data, columns = result.data, columns_of(result)
    legend = "; ".join(f"{column.short}: {column.heading}" for column in columns if column.short != column.heading)
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title_justify="left",
        caption_justify="left",
        title=f"{data.num_positions:,} scored positions of {data.num_sequences:,} validation sequences",
        caption="\n".join([legend, *remarks_on(result)]),
    )
    for index, column in enumerate(columns):
        table.add_column(column.short, justify="right" if index else "left", overflow="fold")
    for row in result.rows:
        table.add_row(*(Text(column.cell(row) or "–") for column in columns))  # a name may look like markup
    return table


def _model(row: ModelRow) -> str:
    return row_title(row) + (f" {_LEAK_MARK}" if row.leaks_documents else "")


def _perplexity(row: ModelRow) -> str:
    figure = f"{row.perplexity:,.2f}" if row.perplexity < 1000 else f"{row.perplexity:,.0f}"
    return f"≥ {figure}" if row.perplexity_capped else figure


def _number(value: float | None, pattern: str = ".4f") -> str:
    return "" if value is None else format(value, pattern)


def _memory(row: ModelRow, kind: str) -> str:
    num_bytes = row.peak_memory_bytes if row.memory_kind == kind else None
    return "" if num_bytes is None else f"{num_bytes / 2**30:.2f}"


_COLUMNS = (
    Column("model", "model", _model),
    Column("cross-entropy, nats", "nats", lambda row: _number(row.cross_entropy_nats)),
    Column("perplexity", "ppl", _perplexity),
    Column("bits per byte", "bits/B", lambda row: _number(row.bits_per_byte)),
    Column("KL to teacher, nats (from the cache)", "KL cached", lambda row: _number(row.kl_bucket_nats)),
    Column("KL to teacher, nats (exact)", "KL", lambda row: _number(row.kl_exact_nats)),
    Column("top-1 agreement", "top-1", lambda row: _number(row.top1_agreement, ".1%")),
    Column("tokens/s", "tok/s", lambda row: _number(row.tokens_per_second, ",.0f")),
    Column("peak GPU memory, GiB", "GPU GiB", lambda row: _memory(row, "gpu")),
    Column("peak process memory, GiB", "GiB", lambda row: _memory(row, "process")),
)
