"""The same rows from every format, and for everything that cannot be read a message with its place."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.sources import RowSource, open_source
from gptoss_ft.errors import DataError, ExitCode, HubError, JobError, SettingError
from gptoss_ft.tiny import rows as tiny_rows

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


def opened(path: Path | str, **settings: Any) -> RowSource:
    return open_source(DatasetSection(path=str(path), **settings))


def file_of(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path | str, **settings: Any) -> DataError:
    """The error of opening and reading `path`, which must be about the data and name its key."""
    with pytest.raises(DataError) as caught:
        list(opened(path, **settings).rows())
    assert caught.value.exit_code == ExitCode.DATA == 3
    assert caught.value.key == ("dataset.split" if settings.get("split") else "dataset.path")
    return caught.value


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path, ROWS)
    source = opened(path)
    assert list(source.rows()) == ROWS
    assert list(source.rows()) == ROWS  # a second pass starts anew
    assert source.columns == ("text", "source")
    assert source.description == str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_conversations_keep_their_structure(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path, CONVERSATIONS)
    assert list(opened(path).rows()) == CONVERSATIONS


def test_json_may_hold_its_rows_under_data(tmp_path: Path) -> None:
    path = file_of(tmp_path, "rows.json", json.dumps({"version": 1, "data": ROWS}))
    assert list(opened(path).rows()) == ROWS


def test_a_folder_is_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_parquet(tmp_path / "c.parquet", ROWS[2:])
    write_csv(tmp_path / "b.csv", ROWS[1:2])
    write_jsonl(tmp_path / "a.jsonl", ROWS[:1])
    file_of(tmp_path, "README.md", "not data")
    (tmp_path / "d.json").mkdir()
    assert list(opened(tmp_path).rows()) == ROWS


@pytest.mark.parametrize("name", ["test.jsonl", "test-00000-of-00001.jsonl", "test_a.jsonl"])
def test_a_split_is_the_files_that_carry_its_name(tmp_path: Path, name: str) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS[:1])
    write_jsonl(tmp_path / name, ROWS[1:])
    write_jsonl(tmp_path / "testing.jsonl", ROWS)
    assert list(opened(tmp_path, split="test").rows()) == ROWS[1:]
    assert list(opened(tmp_path).rows()) == ROWS[:1]


def test_a_split_that_no_file_carries(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ROWS)
    wanted = "local files have the split train, or one a file (test.jsonl in a folder)"
    assert refusal(path, split="test").message == f"split test in {path}: {wanted}"
    assert refusal(tmp_path, split="test").message == f"split test in {tmp_path}: {wanted}"


def test_the_fingerprint_is_of_the_content_and_not_of_the_path(tmp_path: Path) -> None:
    path, same, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "c.jsonl"
    write_jsonl(path, ROWS)
    shutil.copy(path, same)
    write_jsonl(other, ROWS[::-1])
    assert opened(path).fingerprint == opened(same).fingerprint
    assert opened(path).fingerprint != opened(other).fingerprint
    assert opened(path).fingerprint != opened(path, max_samples=2).fingerprint
    before = opened(path).fingerprint
    write_jsonl(path, ROWS[:2])
    assert opened(path).fingerprint != before


def test_max_samples_takes_the_first_rows_over_files(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ROWS[:1])
    write_jsonl(tmp_path / "b.jsonl", ROWS[1:])
    source = opened(tmp_path, max_samples=2)
    assert list(source.rows()) == ROWS[:2]
    assert source.description == f"{tmp_path}, the first 2"
    assert list(opened(tmp_path, max_samples=99).rows()) == ROWS


def test_the_embedded_rows_are_a_source_too() -> None:
    source = opened("tiny/text")
    assert list(source.rows()) == tiny_rows.text()
    assert source.description == "tiny/text"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_and_crlf_are_no_part_of_the_rows(tmp_path: Path, suffix: str) -> None:
    rows: Rows = [{"text": "a", "source": "b"}, {"text": "c", "source": "d"}]
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path, rows)
    lines = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + lines)
    assert list(opened(path).rows()) == rows


def test_blank_lines_of_jsonl_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    path = file_of(tmp_path, "rows.jsonl", '\n{"text": "a"}\n\n  \n{"text": "b"}')
    assert list(opened(path).rows()) == [{"text": "a"}, {"text": "b"}]
    path = file_of(tmp_path, "rows.jsonl", '\n{"text": "a"}\n\nx\n')
    assert refusal(path).message == f"{path}:4:1: not JSON: Expecting value"


def test_nul_in_csv_and_escaped_in_json_is_a_character(tmp_path: Path) -> None:
    assert list(opened(file_of(tmp_path, "a.csv", "text\na\0b\n")).rows()) == [{"text": "a\0b"}]
    assert list(opened(file_of(tmp_path, "a.jsonl", '{"text": "a\\u0000b"}')).rows()) == [{"text": "a\0b"}]


def test_a_field_of_csv_may_be_longer_than_the_modules_own_limit(tmp_path: Path) -> None:
    long = "x" * 200_000
    assert list(opened(file_of(tmp_path, "a.csv", f"text\n{long}\n")).rows()) == [{"text": long}]


TRUNCATED = "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file."
UNREADABLE = {  # name, content, what the message says behind the path
    ("a.jsonl", b'{"text": "a"}\n{"text": nope}\n'): ":2:10: not JSON: Expecting value",
    ("a.jsonl", b'{"text": "a"'): ":1:13: not JSON: Expecting ',' delimiter",
    ("a.jsonl", b'{"text": "a\0b"}\n'): ":1:12: not JSON: Invalid control character at",
    ("a.jsonl", b'{"text": "a"}\n["b"]\n'): ":2: list, wanted an object with columns",
    ("a.jsonl", b'{"text": "a"}\nnull\n'): ":2: NoneType, wanted an object with columns",
    ("a.jsonl", b'{"text": "a"}\n\n{"text": "\xe4"}\n'): ":3: not UTF-8 (byte 0xe4)",
    ("a.jsonl", b"[" * 100_000): ":1: nested too deep",
    ("a.json", b'[{"text": "a"},\n {"text": }]'): ":2:11: not JSON: Expecting value",
    ("a.json", b'[{"text": "a"}, 7]'): ":row 1: int, wanted an object with columns",
    ("a.json", b'{"text": "a"}'): ": holds one dict, wanted a list of objects",
    ("a.json", b'"text"'): ": holds one str, wanted a list of objects",
    ("a.json", b'[\n{"text": "\xff"}]'): ":2: not UTF-8 (byte 0xff)",
    ("a.json", b'[{"text": ' + b"[" * 100_000): ":1: nested too deep",
    ("a.csv", b"text,source\na,b\nc\n"): ":3: not as many fields as the header",
    ("a.csv", b"text,source\na,b\nc,d,e\n"): ":3: not as many fields as the header",
    ("a.csv", b'text,source\na,b\n"c"d,e\n'): ":3: not CSV: ',' expected after '\"'",
    ("a.csv", b'text,source\na,"b'): ":2: not CSV: unexpected end of data",
    ("a.csv", b"text\na\nb\xe4\n"): ":3: not UTF-8 (byte 0xe4)",
    ("a.parquet", b"garbage" * 100): f": not Parquet: {TRUNCATED}",
    ("a.parquet", b""): ": not Parquet: Parquet file size is 0 bytes",
    ("a.parquet", b"PAR1" + b"x" * 100 + b"\x10\0\0\0PAR1"): (
        ": not Parquet: Couldn't deserialize thrift: No more data to read."
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given_file", "message"), UNREADABLE.items(), ids=lambda case: str(case)[:40])
def test_the_place_and_kind_of_what_cannot_be_read(tmp_path: Path, given_file: tuple[str, bytes], message: str) -> None:
    path = file_of(tmp_path, *given_file)
    assert refusal(path).message == f"{path}{message}"


def test_a_number_too_long_for_python(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json"):
        path = file_of(tmp_path, name, b'[{"text": ' + b"1" * 5000 + b"}]")
        assert refusal(path).message.startswith(f"{path}:1: Exceeds the limit (4300 digits)")


def test_how_to_convert_what_is_not_utf8(tmp_path: Path) -> None:
    for suffix, content in (
        (".jsonl", b'{"text": "\xe4"}'),
        (".json", b'[{"text": "\xe4"}]'),
        (".csv", b"text\n\xe4\n"),
    ):
        path = file_of(tmp_path, f"rows{suffix}", content)
        assert refusal(path).cure == f"Convert it: iconv -f LATIN1 -t UTF-8 {path} > utf8{suffix}"


def test_parquet_cut_short_or_with_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    assert refusal(path).message == f"{path}: not Parquet: {TRUNCATED}"
    bad_text = pa.array([b"\xe4\xe4"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": bad_text}), path)
    assert refusal(path).message.startswith(
        f"{path}: holds a value that cannot be read: 'utf-8' codec can't decode byte 0xe4"
    )


def test_parquet_with_a_date_beyond_pythons(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a"], "day": pa.array([2**24], pa.date32())}), path)
    assert refusal(path).message == f"{path}: holds a value that cannot be read: date value out of range"


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
    path = file_of(tmp_path, name, content)
    error = refusal(path)
    assert (error.message, error.cure) == (f"{path} holds no rows", "A data set needs at least one.")


def test_a_parquet_table_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert refusal(path).message == f"{path} holds no rows"


def test_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("rows.jsonl", "./rows", str(tmp_path / "rows"), "~nobody-of-that-name/rows"):
        error = refusal(path)
        assert error.message == f"no such file or folder: {path.removeprefix('./')}"
        assert error.cure == (
            f"The path is relative to the current folder, {tmp_path}; a hub data set is named owner/name."
        )


def test_the_home_folder_is_known_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert list(opened("~/rows.jsonl").rows()) == ROWS


def test_a_suffix_that_is_none_of_ours(tmp_path: Path) -> None:
    path = file_of(tmp_path, "rows.txt", "a")
    assert refusal(path).message == f"{path} is not one of .jsonl, .json, .csv, .parquet"


def test_a_folder_without_data(tmp_path: Path) -> None:
    file_of(tmp_path, "rows.txt", "a")
    assert refusal(tmp_path).message == f"the folder {tmp_path} holds no file of .jsonl, .json, .csv, .parquet"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_file_that_the_system_does_not_read(tmp_path: Path, suffix: str) -> None:
    # Root reads every file, but nobody the start of a process's memory.
    path = tmp_path / f"rows{suffix}"
    path.symlink_to("/proc/self/mem")
    assert refusal(path).message == f"{path} cannot be read: Input/output error"


def test_a_later_file_of_a_folder_that_the_system_does_not_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.jsonl").symlink_to("/proc/self/mem")
    assert refusal(tmp_path).message == f"{tmp_path / 'b.jsonl'} cannot be read: Input/output error"


@pytest.mark.parametrize("path", ["/" + "a" * 5000, "a" * 5000 + ".jsonl"])
def test_a_path_that_is_too_long(path: str) -> None:
    assert refusal(path).message == f"{path} cannot be read: File name too long"


@pytest.mark.parametrize("path", ["a/b/c", "https://example.com/rows", "a" * 5000])
def test_a_name_that_is_none_on_the_hub(path: str) -> None:
    assert refusal(path).message == f"{path} is neither a file or folder here nor a name on the hub"


@pytest.mark.parametrize("path", ["owner/name", "squad", "data/rows.txt"])
def test_a_hub_data_set_without_a_network(path: str) -> None:
    with pytest.raises(HubError) as caught:
        opened(path)
    assert caught.value.exit_code == ExitCode.HUB == 5
    assert caught.value.key == "dataset.path"
    assert caught.value.message == f"{path} is not in the local cache and the hub cannot be reached"
    assert "HF_HUB_OFFLINE" in caught.value.cure


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


@pytest.mark.parametrize("suffix", WHOLE)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=60), st.text('[]{}",:\\\n\r\0 a1-.eE\ufeff\ud55c').map(str.encode)))
def test_noise_is_rows_or_an_error_of_the_job(tmp_path: Path, suffix: str, content: bytes) -> None:
    check_noise(file_of(tmp_path, f"rows{suffix}", content))


@pytest.mark.parametrize("suffix", WHOLE)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), piece=st.binary(max_size=4))
def test_a_damaged_file_is_rows_or_an_error_of_the_job(
    tmp_path: Path, suffix: str, data: st.DataObject, piece: bytes
) -> None:
    whole = WHOLE[suffix]
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.sampled_from([start, start + len(piece), len(whole)]))
    check_noise(file_of(tmp_path, f"rows{suffix}", whole[:start] + piece + whole[end:]))


def check_noise(path: Path) -> None:
    try:
        rows = list(opened(path).rows())
    except JobError as error:
        assert isinstance(error, DataError)
        assert str(path) in error.message
    else:
        assert rows
        assert all(isinstance(row, dict) and all(isinstance(column, str) for column in row) for row in rows)


def test_files_of_other_splits_are_not_trained_on(tmp_path: Path) -> None:
    for name in ("support", "test", "validation-1"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "{name}"}}\n', encoding="utf-8")
    source = open_source(DatasetSection(path=str(tmp_path), format="custom"))
    assert [row["text"] for row in source.rows()] == ["support"]


@pytest.mark.parametrize("key", ["name", "revision"])
def test_a_local_file_has_no_subset_or_revision(tmp_path: Path, key: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "x"}\n', encoding="utf-8")
    with pytest.raises(SettingError, match=f"is local and has no {key}") as caught:
        open_source(DatasetSection(path=str(tmp_path / "rows.jsonl"), **{key: "main"}))
    assert caught.value.key == f"dataset.{key}"
