"""The same rows from every file format; a bad line is one bad row, a damaged file an error with its place."""

import csv
import json
import tracemalloc
from collections.abc import Callable
from datetime import date
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_ft.data.conversation import RowError
from gptoss_ft.data.readers import READERS
from gptoss_ft.errors import DataError, ExitCode

Rows = list[dict[str, Any]]

ROWS: Rows = [
    {"text": 'Größe, "quoted"\nover two lines', "source": "a"},
    {"text": "한국어 😀", "source": ""},
    {"text": "3", "source": "c"},
]
CONVERSATIONS: Rows = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "score": 1.5},
    {"messages": [], "score": None},
]


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, rows: Rows) -> None:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    ".jsonl": write_jsonl,
    ".json": write_json,
    ".csv": write_csv,
    ".parquet": write_parquet,
}


def file_of(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def contents(path: Path) -> list[Any]:
    """Each row; of a bad one its message, in a tuple with its place."""
    rows = READERS[path.suffix](path)
    return [
        (row.place.replace(str(path), "FILE"), str(row.content)) if isinstance(row.content, RowError) else row.content
        for row in rows
    ]


def refusal(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        list(READERS[path.suffix](path))
    assert caught.value.exit_code == ExitCode.DATA == 3
    assert caught.value.key == "dataset.path"
    return caught.value


# Rows


def test_every_reader_is_tested() -> None:
    assert WRITERS.keys() == READERS.keys()


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path, ROWS)
    assert contents(path) == ROWS


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_conversations_keep_their_structure(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path, CONVERSATIONS)
    assert contents(path) == CONVERSATIONS


def test_json_may_hold_its_rows_under_data(tmp_path: Path) -> None:
    assert contents(file_of(tmp_path, "rows.json", json.dumps({"version": 1, "data": ROWS}))) == ROWS


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_and_crlf_are_no_part_of_the_rows(tmp_path: Path, suffix: str) -> None:
    rows: Rows = [{"text": "a", "source": "b"}, {"text": "c", "source": "d"}]
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path, rows)
    lines = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + lines)
    assert contents(path) == rows


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.jsonl", '\n{"text": "a"}\n\n  \n{"text": "b"}', [2, 5]),
        # A row over several lines has the place of its last.
        ("a.csv", '\ntext\na\n\n"b\nc"\n', [3, 6]),
    ],
)
def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path: Path, name: str, content: str, places: list[int]) -> None:
    path = file_of(tmp_path, name, content)
    assert [row.place for row in READERS[path.suffix](path)] == [f"{path}:{line}" for line in places]


def test_rows_of_files_without_lines_are_numbered(tmp_path: Path) -> None:
    for suffix in (".json", ".parquet"):
        path = tmp_path / f"rows{suffix}"
        WRITERS[suffix](path, ROWS)
        what = "item" if suffix == ".json" else "row"
        assert [row.place for row in READERS[suffix](path)] == [f"{path}, {what} {number}" for number in range(3)]


def test_two_columns_of_one_name_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(DataError, match="there are two columns 'text'"):
        list(READERS[".parquet"](path))


def test_nul_in_csv_and_escaped_in_json_is_a_character(tmp_path: Path) -> None:
    assert contents(file_of(tmp_path, "a.csv", "text\na\0b\n")) == [{"text": "a\0b"}]
    assert contents(file_of(tmp_path, "a.jsonl", '{"text": "a\\u0000b"}')) == [{"text": "a\0b"}]


def test_a_field_of_csv_may_be_longer_than_the_modules_own_limit(tmp_path: Path) -> None:
    long = "x" * 200_000
    assert contents(file_of(tmp_path, "a.csv", f"text\n{long}\n")) == [{"text": long}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", ""),
        ("a.jsonl", "\n \n"),
        ("a.json", ""),
        ("a.json", "[]"),
        ("a.csv", ""),
        ("a.csv", "text,source\n"),
    ],
)
def test_a_file_without_rows(tmp_path: Path, name: str, content: str) -> None:
    assert contents(file_of(tmp_path, name, content)) == []


def test_a_parquet_table_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert contents(path) == []


# Bad rows

GOOD = {"text": "a"}
BAD_LINES = {
    b'{"text": nope}': "not JSON: Expecting value at column 10",
    b'{"text": "a"': "not JSON: Expecting ',' delimiter at column 13",
    b'{"text": "a\0b"}': "not JSON: Invalid control character at at column 12",
    b'["b"]': "list, wanted an object with columns",
    b"null": "NoneType, wanted an object with columns",
    b'{"text": "\xe4"}': "not UTF-8: byte 0xe4 at column 11",
    b"[" * 100_000: "not JSON that can be read: nested too deep",
    b'{"text": ' + b"1" * 5000 + b"}": (
        "not JSON that can be read: Exceeds the limit (4300 digits) for integer string conversion: "
        "value has 5000 digits"
    ),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.items(), ids=lambda case: str(case)[:40])
def test_a_bad_line_of_jsonl_is_one_bad_row(tmp_path: Path, line: bytes, message: str) -> None:
    path = file_of(tmp_path, "a.jsonl", b'{"text": "a"}\n\n' + line + b'\n{"text": "a"}\n' + line)
    assert contents(path) == [GOOD, ("FILE:3", message), GOOD, ("FILE:5", message)]
    assert [row.content.fault for row in READERS[".jsonl"](path) if isinstance(row.content, RowError)] == [
        "not readable"
    ] * 2


def test_a_bad_item_of_json_is_one_bad_row(tmp_path: Path) -> None:
    path = file_of(tmp_path, "a.json", '[{"text": "a"}, 7, {"text": "a"}, null]')
    wanted = "wanted an object with columns"
    assert contents(path) == [
        GOOD, ("FILE, item 1", f"int, {wanted}"), GOOD, ("FILE, item 3", f"NoneType, {wanted}"),
    ]  # fmt: skip


BAD_CSV_LINES = {
    b"c": "1 fields, wanted 2 as in the header",
    b"c,d,e": "3 fields, wanted 2 as in the header",
    b'"c"d,e': "not CSV: ',' expected after '\"'",
    b"c\xe4,d": "not UTF-8: byte 0xe4",
}


@pytest.mark.parametrize(("line", "message"), BAD_CSV_LINES.items())
def test_a_bad_line_of_csv_is_one_bad_row(tmp_path: Path, line: bytes, message: str) -> None:
    path = file_of(tmp_path, "a.csv", b"text,source\na,b\n" + line + b'\n"a",b\n' + line + b"\n")
    good = {"text": "a", "source": "b"}
    assert contents(path) == [good, ("FILE:3", message), good, ("FILE:5", message)]


def test_rows_of_parquet_that_python_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    text = pa.array([b"a", b"\xe4\xe4", b"c"] * 700).cast(pa.string(), safe=False)
    day = pa.array([0, 1, 2**24] * 700, pa.date32())
    pq.write_table(pa.table({"text": text, "day": day}), path)
    rows = contents(path)
    assert len(rows) == 2100
    assert rows[0] == {"text": "a", "day": date(1970, 1, 1)}
    assert rows[0::3] == [rows[0]] * 700
    reason = "holds a value that cannot be read: "
    codec = "'utf-8' codec can't decode byte 0xe4 in position 0: invalid continuation byte"
    assert rows[1::3] == [(f"FILE, row {number}", reason + codec) for number in range(1, 2100, 3)]
    assert rows[2::3] == [(f"FILE, row {number}", f"{reason}date value out of range") for number in range(2, 2100, 3)]


# Damaged files

TRUNCATED = "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file."
DAMAGED = {
    ("a.json", b'[{"text": "a"},\n {"text": }]'): ":2:11: not JSON: Expecting value",
    ("a.json", b'{"text": "a"}'): ": holds one dict, wanted a list of objects",
    ("a.json", b'{"data": 1}'): ": holds one dict, wanted a list of objects",
    ("a.json", b'"text"'): ": holds one str, wanted a list of objects",
    ("a.json", b'[\n{"text": "\xff"}]'): ":2: not UTF-8 (byte 0xff)",
    ("a.json", b'[{"text": ' + b"[" * 100_000): ": not JSON that can be read: nested too deep",
    ("a.json", b"[" + b"1" * 5000 + b"]"): (
        ": not JSON that can be read: Exceeds the limit (4300 digits) for integer string conversion: "
        "value has 5000 digits"
    ),
    ("a.csv", b'text,source\na,"b'): ":2: not CSV: a quotation mark is not closed",
    ("a.csv", b'text\na\n"b\nc\nd\n'): ":5: not CSV: a quotation mark is not closed",
    ("a.csv", b'"text"s,source\na,b'): ":1: not CSV: ',' expected after '\"'",
    ("a.csv", b"t\xe4xt\na\n"): ":1: not UTF-8 (byte 0xe4)",
    ("a.csv", "text\na\n".encode("utf-16")): ":1: not UTF-8 (byte 0xff)",
    ("a.csv", b"text,a,text\na,b,c\n"): ":1: there are two columns 'text'",
    ("a.parquet", b"garbage" * 100): f": not Parquet: {TRUNCATED}",
    ("a.parquet", b""): ": not Parquet: Parquet file size is 0 bytes",
    ("a.parquet", b"PAR1" + b"x" * 100 + b"\x10\0\0\0PAR1"): (
        ": not Parquet: Couldn't deserialize thrift: No more data to read."
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given_file", "message"), DAMAGED.items(), ids=lambda case: str(case)[:40])
def test_the_place_and_kind_of_damage(tmp_path: Path, given_file: tuple[str, bytes], message: str) -> None:
    path = file_of(tmp_path, *given_file)
    assert refusal(path).message == f"{path}{message}"


def test_how_to_convert_what_is_not_utf8(tmp_path: Path) -> None:
    for suffix, content in ((".json", b'[{"text": "\xe4"}]'), (".csv", b"t\xe4xt\n")):
        path = file_of(tmp_path, f"rows{suffix}", content)
        assert refusal(path).cure == f"Convert it: iconv -f LATIN1 -t UTF-8 {path} > utf8{suffix}"


def test_a_column_of_parquet_whose_name_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, [{"column_name": 1}])
    path.write_bytes(path.read_bytes().replace(b"column_name", b"column\xe4name"))
    assert refusal(path).message.startswith(f"{path}: the name of a column is not UTF-8: 'utf-8' codec can't decode")


def test_parquet_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    assert refusal(path).message == f"{path}: not Parquet: {TRUNCATED}"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_file_that_the_system_does_not_read(tmp_path: Path, suffix: str) -> None:
    # Root reads every file, but nobody the start of a process's memory.
    path = tmp_path / f"rows{suffix}"
    path.symlink_to("/proc/self/mem")
    assert refusal(path).message == f"{path} cannot be read: Input/output error"


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_that_is_gone(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    assert refusal(path).message == f"{path} cannot be read: No such file or directory"


# Memory


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_file_is_never_held_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    words = Random(1)
    WRITERS[suffix](path, [{"text": f"{words.getrandbits(2000):x}"} for _ in range(20_000)])
    assert path.stat().st_size > 9_000_000
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        rows = READERS[suffix](path)
        assert sum(1 for _ in islice(rows, 10_000)) == 10_000
        assert pa.total_allocated_bytes() - arrow < 6_000_000
        assert sum(1 for _ in rows) == 10_000
        assert tracemalloc.get_traced_memory()[1] < 6_000_000
    finally:
        tracemalloc.stop()


# Anything


def whole_files() -> dict[str, bytes]:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(CONVERSATIONS), sink, compression="none")
    return {
        ".jsonl": "".join(json.dumps(row) + "\n" for row in CONVERSATIONS).encode(),
        ".json": json.dumps(CONVERSATIONS).encode(),
        ".csv": b'text,source\n"a\nb",c\nd,"e""f"\n',
        ".parquet": sink.getvalue().to_pybytes(),
    }


WHOLE = whole_files()


def check_noise(path: Path) -> None:
    try:
        rows = list(READERS[path.suffix](path))
    except DataError as error:
        assert error.message.startswith(str(path))
        return
    for row in rows:
        assert row.place.startswith((f"{path}:", f"{path}, "))
        if isinstance(row.content, RowError):
            assert row.content.fault == "not readable"
        else:
            assert all(isinstance(column, str) for column in row.content)


@pytest.mark.parametrize("suffix", WHOLE)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=60), st.text('[]{}",:\\\n\r\0 a1-.eE\ufeff\ud55c').map(str.encode)))
def test_noise_is_rows_or_an_error_of_the_job(tmp_path: Path, suffix: str, content: bytes) -> None:
    check_noise(file_of(tmp_path, f"rows{suffix}", content))


@pytest.mark.parametrize("suffix", WHOLE)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), piece=st.binary(max_size=4))
def test_a_damaged_file_is_rows_or_an_error_of_the_job(
    tmp_path: Path, suffix: str, data: st.DataObject, piece: bytes
) -> None:
    whole = WHOLE[suffix]
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.sampled_from([start, start + len(piece), len(whole)]))
    check_noise(file_of(tmp_path, f"rows{suffix}", whole[:start] + piece + whole[end:]))


LINES = st.one_of(
    st.sampled_from([b'{"text": "a"}', *BAD_LINES]), st.binary(max_size=20).filter(lambda line: b"\n" not in line)
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=6))
def test_every_line_of_jsonl_that_is_not_blank_is_a_row(tmp_path: Path, lines: list[bytes]) -> None:
    path = file_of(tmp_path, "rows.jsonl", b"\n".join(lines))
    marked = [line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line for number, line in enumerate(lines)]
    expected = [f"{path}:{number}" for number, line in enumerate(marked, start=1) if line.strip()]
    rows = list(READERS[".jsonl"](path))
    assert [row.place for row in rows] == expected
