"""Where rows come from: a hub data set, a local file, a folder of files, or the embedded sample rows."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gptoss_ft import tiny
from gptoss_ft.config import DatasetSection
from gptoss_ft.data.conversation import RowError
from gptoss_ft.data.readers import READERS, SourceRow, rows_of, unreadable
from gptoss_ft.errors import DataError, SettingError
from gptoss_ft.hub_client import patiently, unharmed
from gptoss_ft.hub_errors import explained
from gptoss_ft.runtime import cache_folder, image_id

# JSON Lines may lack a column in some rows: so many are looked at.
ROWS_FOR_COLUMNS = 100
# A file of a folder whose name begins with one of these words is not for training.
OTHER_SPLITS = ("test", "testing", "valid", "validation", "val", "dev", "development", "eval", "evaluation")


@dataclass(frozen=True)
class RowSource:
    """Rows of one data set. `rows()` starts a new pass; `fingerprint` changes when the rows do. `columns` are those
    of the first rows that can be read; later rows of JSON may hold others."""

    description: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[SourceRow]]
    fingerprint: str


def open_source(config: DatasetSection) -> RowSource:
    """Open `dataset.path`. Raises `DataError` when it cannot be read or is empty, `SettingError` for a setting that
    does not fit it, `HubError` for the hub's own."""
    if tiny.is_tiny(config.path):
        source = _local(config, tiny.materialize(config.path, cache_folder()))
    elif _is_local(config.path):
        # os.path.expanduser leaves ~name as it is where there is no such user; pathlib's raises.
        source = _local(config, Path(os.path.expanduser(config.path)))
    else:
        source = _hub(config)
    return _limited(_renamed(source, config.rename_columns), config.max_samples)


def _limited(source: RowSource, count: int | None) -> RowSource:
    if count is None:
        return source
    return RowSource(
        f"{source.description}, the first {count}",
        source.columns,
        lambda: islice(source.rows(), count),
        f"{source.fingerprint}[:{count}]",
    )


def _renamed(source: RowSource, names: Mapping[str, str]) -> RowSource:
    if not names:
        return source
    for old, new in names.items():
        if old not in source.columns or new in source.columns:
            reason = f"there is {new} already" if old in source.columns else f"no column {old}"
            raise SettingError(
                f"{reason}; there are: {', '.join(source.columns)}",
                "Write each as {name in the data set: name that the format reads}.",
                key="dataset.rename_columns",
            )
    twice = next((new for old, new in names.items() if list(names.values()).count(new) > 1), None)
    if twice is not None:
        raise SettingError(f"two columns are renamed to {twice}", "Name each once.", key="dataset.rename_columns")

    def renamed(row: SourceRow) -> SourceRow:
        if isinstance(row.content, RowError):
            return row
        content = {names.get(column, column): value for column, value in row.content.items()}
        if len(content) < len(row.content):
            both = next(f"{old} and {new}" for old, new in names.items() if {old, new} <= row.content.keys())
            return row._replace(content=RowError(f"holds both {both}, which are renamed to one", "wrong shape"))
        return row._replace(content=content)

    columns = tuple(names.get(column, column) for column in source.columns)
    return RowSource(source.description, columns, lambda: map(renamed, source.rows()), source.fingerprint)


def _is_local(path: str) -> bool:
    # os.path.exists, because pathlib's raises for a name that is too long to be one.
    return path.startswith(("/", ".", "~")) or Path(path).suffix.lower() in READERS or os.path.exists(path)


def _hub(config: DatasetSection) -> RowSource:
    from datasets import load_dataset

    def load(**how: str) -> Any:
        return load_dataset(config.path, config.name, split=config.split, revision=config.revision, **how)

    with explained(config.path, "dataset.path"):
        table = unharmed(
            config.path,
            "datasets",
            lambda: patiently(load),
            lambda: patiently(partial(load, download_mode="force_redownload")),
        )
    if not table.num_rows:
        raise DataError(f"{config.path} has no rows in split {config.split}", key="dataset.split")
    names = [config.path, config.name, f"split {config.split}"]
    fingerprint = _hub_fingerprint(config, table)
    # Sound, pictures and video would be decoded for every row, and no format reads them.
    readable = table.remove_columns([name for name, feature in table.features.items() if _is_media(feature)])
    return RowSource(
        ", ".join(name for name in names if name),
        tuple(readable.column_names),
        lambda: _rows_of_table(readable),
        fingerprint,
    )


def _rows_of_table(table: Any) -> Iterator[SourceRow]:
    for part in table.with_format("arrow").iter(batch_size=1024):
        for batch in part.to_batches():
            yield from rows_of(batch)


def _is_media(feature: Any) -> bool:
    from datasets import Audio, Image, LargeList, List, Nifti, Pdf, Video

    if isinstance(feature, List | LargeList):
        return _is_media(feature.feature)
    if isinstance(feature, Mapping):
        return any(map(_is_media, feature.values()))
    return isinstance(feature, Audio | Image | Nifti | Pdf | Video)


def _hub_fingerprint(config: DatasetSection, table: Any) -> str:
    """The files' addresses, which hold the commit that was downloaded; of a set without them, what `datasets` says."""
    files = sorted(table.info.download_checksums or ())
    what = "\n".join(files) or table._fingerprint
    return f"{config.path}:{config.name}:{config.split}:{hashlib.sha256(what.encode()).hexdigest()}"


def _local(config: DatasetSection, path: Path) -> RowSource:
    for key in ("name", "revision"):
        if getattr(config, key) is not None:
            raise SettingError(f"{path} is local and has no {key}", f"Leave dataset.{key} null.", f"dataset.{key}")
    try:
        files = _files(path, config.split)
    except OSError as error:
        raise unreadable(path, error) from None

    before = _state(files)
    fingerprint = _hash(files)

    def rows() -> Iterator[SourceRow]:
        yield from chain.from_iterable(READERS[file.suffix.lower()](file) for file in files)
        if _state(files) != before:
            # Else the rows would be taken for those that the fingerprint is of.
            raise DataError(f"{path} changed while it was read", "Start again once it is written.", key="dataset.path")

    return RowSource(_with_files(config.path, path, files), _columns(path, rows()), rows, fingerprint)


def _state(files: list[Path]) -> list[tuple[int, int, int]]:
    """What changes when a file does, without reading it."""
    try:
        return [(stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in map(Path.stat, files)]
    except OSError as error:
        raise unreadable(Path(error.filename), error) from None


def _with_files(name: str, path: Path, files: list[Path]) -> str:
    """`data (2 files; not read: dev.jsonl)`: of a folder, what is read of it and what is not."""
    if path.is_file():
        return name
    others = sorted(file.name for file in path.iterdir() if file.is_file() and file not in files)
    shown = f"; not read: {', '.join(others[:5])}{', …' if len(others) > 5 else ''}" if others else ""
    return f"{name} ({len(files)} file{'s' * (len(files) > 1)}{shown})"


def _columns(path: Path, rows: Iterator[SourceRow]) -> tuple[str, ...]:
    """The columns of the first rows that can be read, in the order in which they are met."""
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} holds no rows", "A data set needs at least one.", key="dataset.path")
    readable = (row.content for row in chain([first], rows) if not isinstance(row.content, RowError))
    columns = dict.fromkeys(column for row in islice(readable, ROWS_FOR_COLUMNS) for column in row)
    if not columns:
        raise DataError(f"{first.place or path}: {first.content}; no row can be read", key="dataset.path")
    return tuple(columns)


def _files(path: Path, split: str) -> list[Path]:
    known = ", ".join(READERS)
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise DataError(f"{path} is not one of {known}", "Convert the file, or rename it.", key="dataset.path")
        files = [path]
    elif path.is_dir():
        entries = sorted(file for file in path.iterdir() if file.suffix.lower() in READERS and file.is_file())
        if not entries:
            raise DataError(f"the folder {path} holds no file of {known}", key="dataset.path")
        files = [file for file in entries if split != "train" or not _is_of_another_split(file)]
        if not files:
            names = ", ".join(file.name for file in entries)
            raise DataError(f"no file in {path} is for training: {names}", "Set dataset.split.", key="dataset.split")
        of_split = [file for file in files if file.stem == split or file.stem.startswith((f"{split}-", f"{split}_"))]
        if of_split:
            return of_split
    else:
        raise DataError(
            f"no such file or folder: {path}",
            f"The path is relative to the current folder, {Path.cwd()}; a hub data set is named owner/name."
            + _mount_hint(),
            key="dataset.path",
        )
    if split != "train":
        raise DataError(
            f"split {split} in {path}: local files have the split train, or one a file ({split}.jsonl in a folder)",
            key="dataset.split",
        )
    return files


def _is_of_another_split(file: Path) -> bool:
    return re.split("[^a-z]", file.stem.lower(), maxsplit=1)[0] in OTHER_SPLITS


def _mount_hint() -> str:
    if image_id() is None:
        return ""
    return " The container sees that folder alone; mount others: DOCKER_RUN_ARGS='-v /data:/data:ro'."


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise unreadable(file, error) from None
    return digest.hexdigest()
