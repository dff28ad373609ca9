"""Where rows come from: a hub data set, a local file, a folder of files, or the embedded sample rows.

Local files are read by us and not by `datasets`, so that an error names the file and its line, and so that
nothing is copied into a cache.
"""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gptoss_ft import tiny
from gptoss_ft.config import DatasetSection
from gptoss_ft.data.adapters import FORMATS
from gptoss_ft.errors import DataError, SettingError
from gptoss_ft.hub_errors import explained
from gptoss_ft.runtime import cache_folder, image_id

Row = dict[str, Any]
# Files of a folder that are not for training.
OTHER_SPLITS = ("test", "valid", "val", "dev", "eval")
# csv's own limit of 128 KiB a field is less than a long text.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class RowSource:
    """Rows of one data set. `rows()` starts a new pass; `fingerprint` changes when the rows do."""

    description: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]
    fingerprint: str


def open_source(config: DatasetSection) -> RowSource:
    """Open `dataset.path`. Raises `DataError` when it cannot be read or is empty, `HubError` for the hub's own."""
    if tiny.is_tiny(config.path):
        source = _local(config, tiny.materialize(config.path, cache_folder()))
    elif _is_local(config.path):
        # os.path.expanduser leaves ~name as it is where there is no such user; pathlib's raises.
        source = _local(config, Path(os.path.expanduser(config.path)))
    else:
        source = _hub(config)
    return _limited(source, config.max_samples)


def _limited(source: RowSource, count: int | None) -> RowSource:
    if count is None:
        return source
    return RowSource(
        f"{source.description}, the first {count}",
        source.columns,
        lambda: islice(source.rows(), count),
        f"{source.fingerprint}[:{count}]",
    )


def _is_local(path: str) -> bool:
    # os.path.exists, because pathlib's raises for a name that is too long to be one.
    return path.startswith(("/", ".", "~")) or Path(path).suffix in READERS or os.path.exists(path)


def _hub(config: DatasetSection) -> RowSource:
    from datasets import load_dataset

    with explained(config.path, "dataset.path"):
        table = load_dataset(config.path, config.name, split=config.split, revision=config.revision)
    if not table.num_rows:
        raise DataError(f"{config.path} has no rows in split {config.split}", key="dataset.split")
    columns = FORMATS[config.format].columns(config, table.column_names)
    table = table.select_columns(list(columns))  # the others need not be decoded (sound, pictures)
    names = [config.path, config.name, f"split {config.split}"]
    return RowSource(
        ", ".join(name for name in names if name),
        tuple(table.column_names),
        lambda: iter(table),
        f"{config.path}@{config.revision or 'main'}:{table._fingerprint}",
    )


def _local(config: DatasetSection, path: Path) -> RowSource:
    for key in ("name", "revision"):
        if getattr(config, key) is not None:
            raise SettingError(f"{path} is local and has no {key}", f"Leave dataset.{key} null.", f"dataset.{key}")
    try:
        files = _files(path, config.split)
    except OSError as error:
        raise _unreadable(path, error) from None

    def rows() -> Iterator[Row]:
        return chain.from_iterable(READERS[file.suffix](file) for file in files)

    first = next(rows(), None)
    if first is None:
        raise DataError(f"{path} holds no rows", "A data set needs at least one.", key="dataset.path")
    return RowSource(config.path, tuple(first), rows, _hash(files))


def _files(path: Path, split: str) -> list[Path]:
    known = ", ".join(READERS)
    if path.is_file():
        if path.suffix not in READERS:
            raise DataError(f"{path} is not one of {known}", "Convert the file, or rename it.", key="dataset.path")
        files = [path]
    elif path.is_dir():
        entries = sorted(file for file in path.iterdir() if file.suffix in READERS and file.is_file())
        files = [file for file in entries if split != "train" or not file.stem.startswith(OTHER_SPLITS)]
        if not files:
            raise DataError(f"the folder {path} holds no file of {known}", key="dataset.path")
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
            raise _unreadable(file, error) from None
    return digest.hexdigest()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error.object, error.start) from None
    except OSError as error:
        raise _unreadable(file, error) from None


def _not_utf8(file: Path, content: bytes, offset: int) -> DataError:
    line = content.count(b"\n", 0, offset) + 1
    return DataError(
        f"{file}:{line}: not UTF-8 (byte 0x{content[offset]:02x})",
        f"Convert it: iconv -f LATIN1 -t UTF-8 {file} > utf8{file.suffix}",
        key="dataset.path",
    )


def _unreadable(file: Path, error: OSError) -> DataError:
    # Not the error's own words: Arrow's repeat the path and the number.
    reason = os.strerror(error.errno) if error.errno else str(error)
    return DataError(f"{file} cannot be read: {reason}", key="dataset.path")


def _read_jsonl(file: Path) -> Iterator[Row]:
    try:
        with file.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{file}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x})",
                        f"Convert it: iconv -f LATIN1 -t UTF-8 {file} > utf8{file.suffix}",
                        key="dataset.path",
                    ) from None
                if line:
                    yield _object(_parse(line, file, number), file, f"{number}")
    except OSError as error:
        raise _unreadable(file, error) from None


def _read_json(file: Path) -> Iterator[Row]:
    text = _text(file)
    if not text.strip():
        return
    content = _parse(text, file, 1)
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list):
        raise DataError(
            f"{file}: holds one {type(content).__name__}, wanted a list of objects",
            "Use .jsonl for one object a line.",
            key="dataset.path",
        )
    for position, item in enumerate(content):
        yield _object(item, file, f"row {position}")


def _parse(text: str, file: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{file}:{first_line + error.lineno - 1}:{error.colno}"
        raise DataError(f"{place}: not JSON: {error.msg}", key="dataset.path") from None
    except RecursionError:
        raise DataError(f"{file}:{first_line}: nested too deep", key="dataset.path") from None
    except ValueError as error:
        # Python reads no integer of more than 4,300 digits.
        raise DataError(f"{file}:{first_line}: {error}", key="dataset.path") from None


def _object(item: Any, file: Path, place: str) -> Row:
    if not isinstance(item, dict):
        raise DataError(f"{file}:{place}: {type(item).__name__}, wanted an object with columns", key="dataset.path")
    return item


def _read_csv(file: Path) -> Iterator[Row]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{file}:{reader.line_num}: not as many fields as the header", key="dataset.path")
                yield row
    except UnicodeDecodeError:
        # The stream decodes in blocks: read the file again to find the line.
        _text(file)
        raise
    except csv.Error as error:
        raise DataError(f"{file}:{reader.reader.line_num}: not CSV: {error}", key="dataset.path") from None
    except OSError as error:
        raise _unreadable(file, error) from None


def _read_parquet(file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pa.ArrowException, UnicodeDecodeError, OverflowError, OSError) as error:
        # Arrow raises OSError for damaged content too, then without a number of the system's.
        if isinstance(error, OSError) and error.errno is not None:
            raise _unreadable(file, error) from None
        # Text that is not UTF-8, and dates beyond the year 9999, fail when they become Python's.
        of_value = isinstance(error, UnicodeDecodeError | OverflowError)
        what = "holds a value that cannot be read" if of_value else "not Parquet"
        raise DataError(f"{file}: {what}: {str(error).strip()}", key="dataset.path") from None


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
