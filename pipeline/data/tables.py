"""Rows of Parquet files and of hub datasets: the only door to pyarrow and datasets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.rows import Row, require_columns, without_nulls
from pipeline.errors import ConfigError, first_line

_BATCH_ROWS = 1024
_COMMIT = re.compile("[0-9a-f]{40}")
_RETRY = (
    "Is the network there, and HF_HUB_OFFLINE unset? Otherwise bring what is read of it here: `sad-pipeline doctor -c "
    "CONFIG` says how."
)


def read_parquet(path: Path, columns: list[str], optional: Sequence[str] = ()) -> Iterator[Row | str]:
    """The rows of one file, only the columns asked for; in place of a row that does not decode, the reason.

    Columns that are `optional` are read where there are any.
    """
    with _open_parquet(path) as file:
        require_columns(str(path), file.schema_arrow.names, columns)
        try:
            there = [*columns, *(name for name in optional if name in file.schema_arrow.names)]
            for batch in file.iter_batches(_BATCH_ROWS, columns=there):
                yield from _decoded_rows(batch)
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(
                f"{path}: the Parquet file is damaged. {_first_line(error)} Fetch or write it again."
            ) from error


def count_parquet_rows(path: Path) -> int:
    """Rows of one file, from its footer."""
    with _open_parquet(path) as file:
        return int(file.metadata.num_rows)


def read_dataset(
    dataset: str,
    subset: str | None,
    split: str,
    revision: str | None,
    columns: list[str],
    optional: Sequence[str] = (),
) -> Iterator[tuple[str, Row]]:
    """Key and row of a hub dataset, or of a local folder laid out as one; streamed, so that a limit saves downloads."""
    rows = _open_dataset(dataset, subset, split, revision)
    number = 0
    try:
        if rows.column_names is not None:
            require_columns(f"dataset {dataset}", rows.column_names, columns)
            rows = rows.select_columns([*columns, *(name for name in optional if name in rows.column_names)])
        for number, row in enumerate(rows, start=1):
            if number == 1:  # older versions do not know the columns of a stream before its first row
                require_columns(f"dataset {dataset}", list(row), columns)
            yield (
                f"{split}:{number}",
                without_nulls({name: row[name] for name in (*columns, *optional) if name in row}),
            )
    except ConfigError:
        raise
    except Exception as error:  # arrow, JSON, network: each format and protocol below has its own errors
        raise ConfigError(
            f"dataset {dataset}: reading failed after row {number:,}. {_first_line(error)} {_RETRY}"
        ) from error


def count_dataset_rows(dataset: str, subset: str | None, split: str, revision: str | None) -> int | None:
    """Rows of the split, where the dataset says how many it has."""
    if _is_saved(Path(dataset)):
        return len(_open_dataset(dataset, subset, split, revision, streaming=False))
    known = _open_dataset(dataset, subset, split, revision).info.splits or {}
    return (known[split].num_examples or None) if split in known else None


def resolve_revision(dataset: str, revision: str | None) -> str:
    """The commit that `revision` of a hub dataset stands for now. ConfigError where the hub cannot be asked."""
    import huggingface_hub

    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    try:
        return str(huggingface_hub.HfApi().dataset_info(dataset, revision=revision, timeout=20).sha)
    except Exception as error:  # the HTTP library under huggingface_hub changed twice, and its errors with it
        raise ConfigError(
            f"dataset {dataset}, revision {revision or 'main'}: the hub does not say which commit this is. "
            f"{_first_line(error)} Check data.dataset and data.revision; for a private or gated one run `hf auth "
            f"login`. {_RETRY}"
        ) from error


def _open_dataset(dataset: str, subset: str | None, split: str, revision: str | None, streaming: bool = True) -> Any:
    import datasets  # heavy, and only hub sources need it

    datasets.disable_progress_bars()
    try:
        if _is_saved(Path(dataset)):
            saved = _open_saved(datasets.load_from_disk(dataset), dataset, split)
            return saved.to_iterable_dataset() if streaming else saved
        return datasets.load_dataset(dataset, subset, split=split, revision=revision, streaming=streaming)
    except ConfigError:
        raise
    except (ValueError, datasets.exceptions.DatasetNotFoundError) as error:  # unknown subset, split, dataset or format
        raise ConfigError(
            f"dataset {dataset} (subset {subset}, split {split}, revision {revision}): {_first_line(error)} Check "
            "data.dataset, data.subset, data.dataset_split and data.revision."
        ) from error
    except Exception as error:
        raise ConfigError(f"dataset {dataset}: cannot be opened. {_first_line(error)} {_RETRY}") from error


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _open_saved(saved: Any, dataset: str, split: str) -> Any:
    """The rows of a saved dataset, or of a split of several."""
    if isinstance(saved, dict):
        if split not in saved:
            raise ConfigError(
                f"dataset {dataset}: has no split {split!r}; it has {', '.join(saved)}. Set data.dataset_split."
            )
        return saved[split]
    return saved


def _open_parquet(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"{path}: expected a Parquet file; {_first_line(error)} Check data.path and data.source."
        ) from error


def _decoded_rows(batch: Any) -> list[Row | str]:
    try:
        return [without_nulls(row) for row in batch.to_pylist()]
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return ["not valid UTF-8"]
        return [row for number in range(batch.num_rows) for row in _decoded_rows(batch.slice(number, 1))]


def _first_line(error: Exception) -> str:
    text = first_line(error)
    return text if text.endswith(".") else f"{text}."
