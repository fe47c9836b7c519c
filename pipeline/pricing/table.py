"""An estimate as tables that people read."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.console import format_bytes, format_seconds
from pipeline.pricing.estimate import CapturePrice, DiskPrice, Estimate, TextSize, TrainingPrice
from pipeline.pricing.memory import TrainingMemory

Row = tuple[str, str]
_IN_ANOTHER_SESSION = "MORE: train in another session, in a run directory of its own, with the cache in cache.roots"


def tables(estimate: Estimate) -> Iterator[Table]:
    """The cache, the training, and the memory it needs."""
    hours = estimate.session_hours
    what = "new cache" if estimate.plan is None else f"cache with plan {estimate.plan[:12]}"
    capture = estimate.capture
    rows = [*_text_rows(estimate.text), *_capture_rows(capture, hours), *_disk_rows(estimate.disk)]
    yield _table(f"{what}: {capture.tokens_left:,} tokens to do", rows)
    yield _table("training", [*_training_rows(estimate.training, hours), _run_row(estimate)])
    yield _table("memory of the training", _memory_rows(estimate.training.memory))


def _table(title: str, rows: list[Row]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, show_header=False, title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table


def _text_rows(text: TextSize) -> list[Row]:
    sequences = f"{text.num_train_sequences:,} sequences to train on, {text.num_validation_sequences:,} to validate"
    return [("tokens of the text", f"{text.num_tokens:,} ({text.basis})"), ("", sequences)]


def _capture_rows(capture: CapturePrice, session_hours: float) -> list[Row]:
    rows = [("bytes a token", f"{capture.bytes_per_token:,.1f} (of {capture.bytes_basis})")]
    if capture.tokens_per_second is not None:
        sizes = f"{capture.batch_size:,} sequences a pass, {capture.chunk_positions:,} positions at once"
        sizes += f", on {capture.cards} cards" if capture.cards > 1 else ""
        rows.append(("capture", f"{capture.tokens_per_second:,.0f} tokens a second, {sizes}"))
        rows.append(("time of capture", _time(capture.hours, capture.sessions, session_hours)))
    size = f"{format_bytes(capture.cache_bytes)}, of which {format_bytes(capture.sealed_bytes)} are sealed"
    if capture.elsewhere_bytes:
        size += f"; {format_bytes(capture.elsewhere_bytes)} of it in other roots"
    return [*rows, ("finished cache", size)]


def _disk_rows(disk: DiskPrice) -> list[Row]:
    rows = [(f"fit in {disk.gigabytes:g} GB", f"{disk.tokens_that_fit:,} tokens{'' if disk.fits else ': NOT ALL'}")]
    for setting, size in sorted(disk.bytes_otherwise.items(), key=lambda item: item[1]):
        rows.append((f"with {setting}", f"{size:,.1f} bytes a token"))
    return rows + [("to make it fit" if index == 0 else "", line) for index, line in enumerate(disk.advice)]


def _training_rows(training: TrainingPrice, session_hours: float) -> list[Row]:
    steps = f"{training.num_steps:,} steps"
    if training.steps_done:
        steps += f", {training.steps_done:,} done"
    cards = f", on {training.cards} cards" if training.cards > 1 else ""
    checkpoints = f"{format_bytes(training.checkpoint_bytes)} each, at most {format_bytes(training.checkpoints_bytes)}"
    return [
        ("steps", steps),
        (
            "pace",
            f"{training.tokens_per_second:,.0f} tokens a second, {training.seconds_per_step:,.2f} s a step{cards}",
        ),
        ("time of training", _time(training.hours, training.sessions, session_hours)),
        ("of it validating", format_seconds(training.validation_hours * 3600)),
        ("checkpoints", checkpoints),
        ("finished student", format_bytes(training.model_bytes)),
    ]


def _run_row(estimate: Estimate) -> Row:
    """Whether one run directory holds all of it."""
    gigabytes = estimate.disk.gigabytes
    fits = estimate.run_bytes <= gigabytes * 1e9
    training_bytes = estimate.training.checkpoints_bytes + estimate.training.model_bytes
    words = "in one run directory" if fits else _IN_ANOTHER_SESSION
    if training_bytes > gigabytes * 1e9:
        training = estimate.training
        has_average = training.checkpoint_bytes > 3 * training.model_bytes  # beside weights and two moments of each
        without = "train.ema_decay: 0, or " if has_average else ""
        words = f"MORE: the training's {format_bytes(training_bytes)} alone; {without}a smaller student"
    return "cache and training", f"at most {format_bytes(estimate.run_bytes)} of {gigabytes:g} GB, {words}"


def _memory_rows(memory: TrainingMemory) -> list[Row]:
    parts = {
        "parameters": memory.parameters,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "average of the weights": memory.average,
        "head, a chunk": memory.head_chunk,
        "these together": memory.known_parts,
    }
    rows = [(name, format_bytes(size)) for name, size in parts.items() if size]
    if memory.peak is None:
        return [*rows, ("activations", "not known on a CPU")]
    return [*rows, ("peak of a step", f"{format_bytes(memory.peak)}, activations included")]


def _time(hours: float, sessions: int, session_hours: float) -> str:
    plural = "" if sessions == 1 else "s"
    return f"{format_seconds(hours * 3600)}: {sessions:,} session{plural} of {session_hours:g} hours"
