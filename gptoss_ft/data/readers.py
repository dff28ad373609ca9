"""Local files → rows: JSON Lines, JSON, CSV and Parquet.

Files are read by us and not by `datasets`, so that an error names the file and its line, a bad line is one bad row and
not the end, and nothing is copied into a cache. Whole files are never held, but for .json.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gptoss_ft.data.conversation import RowError
from gptoss_ft.errors import DataError

if TYPE_CHECKING:
    import _csv

Row = dict[str, Any]
# csv's own limit of 128 KiB a field is less than a long text.
csv.field_size_limit(2**31 - 1)


class SourceRow(NamedTuple):
    """A row, or what is wrong with it, and where it stands (`data.jsonl:12`; empty where a row has no line)."""

    content: Row | RowError
    place: str = ""


def unreadable(file: Path, error: OSError) -> DataError:
    # Not the error's own words: Arrow's repeat the path and the number.
    reason = os.strerror(error.errno) if error.errno else str(error)
    return DataError(f"{file} cannot be read: {reason}", key="dataset.path")


def _read_jsonl(file: Path) -> Iterator[SourceRow]:
    try:
        with file.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                content = _parse_line(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw)
                if content is not None:
                    yield SourceRow(content, f"{file}:{number}")
    except OSError as error:
        raise unreadable(file, error) from None


def _parse_line(raw: bytes) -> Row | RowError | None:
    """The row of a line, what is wrong with it, or None for a blank one."""
    if not raw.strip():
        return None
    try:
        return _object(json.loads(raw.decode().rstrip()))
    except UnicodeDecodeError as error:
        return RowError(f"not UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}", "not readable")
    except json.JSONDecodeError as error:
        return RowError(f"not JSON: {error.msg} at column {error.colno}", "not readable")
    except (RecursionError, ValueError) as error:
        return _not_a_value(error)


def _not_a_value(error: RecursionError | ValueError) -> RowError:
    # Python reads no integer of more than 4,300 digits, and nothing nested a thousand deep.
    message = "nested too deep" if isinstance(error, RecursionError) else str(error).partition(";")[0]
    return RowError(f"not JSON that can be read: {message}", "not readable")


def _object(item: object) -> Row | RowError:
    if isinstance(item, dict):
        return item
    return RowError(f"{type(item).__name__}, wanted an object with columns", "not readable")


def _read_json(file: Path) -> Iterator[SourceRow]:
    text = _text(file)
    if not text.strip():
        return
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{file}:{error.lineno}:{error.colno}"
        raise DataError(f"{place}: not JSON: {error.msg}", key="dataset.path") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{file}: {_not_a_value(error)}", key="dataset.path") from None
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list):
        raise DataError(
            f"{file}: holds one {type(content).__name__}, wanted a list of objects",
            "Use .jsonl for one object a line.",
            key="dataset.path",
        )
    for number, item in enumerate(content):
        yield SourceRow(_object(item), f"{file}, item {number}")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _not_utf8(file, line, error.object[error.start]) from None
    except OSError as error:
        raise unreadable(file, error) from None


def _not_utf8(file: Path, line: int, byte: int) -> DataError:
    return DataError(
        f"{file}:{line}: not UTF-8 (byte 0x{byte:02x})",
        f"Convert it: iconv -f LATIN1 -t UTF-8 {file} > utf8{file.suffix}",
        key="dataset.path",
    )


def _read_csv(file: Path) -> Iterator[SourceRow]:
    try:
        # Bytes that are not UTF-8 become half surrogates, so that they are one bad row and not the end.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            lines = csv.reader(stream, strict=True)
            header = _csv_header(file, lines)
            while (fields := _csv_fields(file, lines)) is not None:
                content = fields if isinstance(fields, RowError) else _csv_row(header, fields)
                yield SourceRow(content, f"{file}:{lines.line_num}")
    except OSError as error:
        raise unreadable(file, error) from None


def _csv_header(file: Path, lines: "_csv.Reader") -> list[str]:
    """The names of the columns; of a file without a line, none."""
    header = _csv_fields(file, lines)
    place = f"{file}:{lines.line_num}"
    if isinstance(header, RowError):
        raise DataError(f"{place}: {header}", key="dataset.path")
    header = header or []
    byte = _byte_that_is_no_text(header)
    if byte is not None:
        raise _not_utf8(file, lines.line_num, byte)
    twice = [name for number, name in enumerate(header) if name in header[:number]]
    if twice:
        raise DataError(f"{place}: there are two columns {twice[0]!r}", "Rename one of them.", key="dataset.path")
    return header


def _csv_fields(file: Path, lines: "_csv.Reader") -> list[str] | RowError | None:
    """The fields of the next row that is not blank, what is wrong with it, or None after the last one."""
    try:
        return next(filter(None, lines), None)
    except csv.Error as error:
        # Anything else is wrong with its line alone: the next row begins behind it.
        if "unexpected end of data" in str(error):
            reason = "a quotation mark is not closed"
            raise DataError(f"{file}:{lines.line_num}: not CSV: {reason}", key="dataset.path") from None
        return RowError(f"not CSV: {error}", "not readable")


def _csv_row(header: list[str], fields: list[str]) -> Row | RowError:
    if len(fields) != len(header):
        return RowError(f"{len(fields)} fields, wanted {len(header)} as in the header", "not readable")
    byte = _byte_that_is_no_text(fields)
    if byte is not None:
        return RowError(f"not UTF-8: byte 0x{byte:02x}", "not readable")
    return dict(zip(header, fields, strict=True))


def _byte_that_is_no_text(fields: list[str]) -> int | None:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError as error:
        return ord(error.object[error.start]) - 0xDC00
    return None


def _read_parquet(file: Path) -> Iterator[SourceRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # As it is by default, Arrow 26 reads the whole of a row group, and a file may have only one (51 MiB for a file
        # of 47). A buffer helps only where nothing is read ahead (5 MiB).
        with pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as table:
            twice = [
                name
                for number, name in enumerate(table.schema_arrow.names)
                if name in table.schema_arrow.names[:number]
            ]
            if twice:
                raise DataError(
                    f"{file}: there are two columns {twice[0]!r}", "Rename one of them.", key="dataset.path"
                )
            number = 0
            for batch in table.iter_batches(batch_size=1024):
                for row in rows_of(batch):
                    yield row._replace(place=f"{file}, row {number}")
                    number += 1
    except (pa.ArrowException, OSError) as error:
        # Arrow raises OSError for damaged content too, then without a number of the system's.
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(file, error) from None
        raise DataError(f"{file}: not Parquet: {str(error).strip()}", key="dataset.path") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: the name of a column is not UTF-8: {error}", key="dataset.path") from None


def rows_of(batch: Any) -> Iterator[SourceRow]:
    """The rows of an Arrow batch. Text that is not UTF-8, and dates beyond the year 9999, fail when they become
    Python's, and then one row at a time."""
    try:
        yield from map(SourceRow, batch.to_pylist())
    except (UnicodeDecodeError, OverflowError, ValueError) as error:
        if batch.num_rows > 1:
            for at in range(batch.num_rows):
                yield from rows_of(batch.slice(at, 1))
        else:
            yield SourceRow(RowError(f"holds a value that cannot be read: {error}", "not readable"))


READERS: dict[str, Callable[[Path], Iterator[SourceRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
