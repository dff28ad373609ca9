"""Where rows come from: files, folders, the embedded rows, the hub; and which names, splits and renames are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.conversation import RowError
from gptoss_ft.data.readers import SourceRow
from gptoss_ft.data.sources import RowSource, open_source
from gptoss_ft.errors import DataError, ExitCode, HubError, SettingError
from gptoss_ft.tiny import rows as tiny_rows

Rows = list[dict[str, Any]]

ROWS: Rows = [{"text": f"{name}é", "source": name} for name in "abc"]


def write(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def opened(path: Path | str, **settings: Any) -> RowSource:
    return open_source(DatasetSection(path=str(path), **settings))


def contents(source: RowSource) -> list[Any]:
    """Each row; of a bad one its message."""
    return [str(row.content) if isinstance(row.content, RowError) else row.content for row in source.rows()]


def file_of(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path | str, key: str = "dataset.path", **settings: Any) -> DataError:
    """The error of opening and reading `path`, which must be about the data and name its key."""
    with pytest.raises(DataError) as caught:
        list(opened(path, **settings).rows())
    assert caught.value.exit_code == ExitCode.DATA == 3
    assert caught.value.key == key
    return caught.value


# Files and folders


def test_a_file_is_its_rows_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, ROWS)
    source = opened(path)
    expected = [SourceRow(row, f"{path}:{number}") for number, row in enumerate(ROWS, start=1)]
    assert list(source.rows()) == expected
    assert list(source.rows()) == expected  # a second pass starts anew
    assert source.columns == ("text", "source")
    assert source.description == str(path)


def test_a_folder_is_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    file_of(tmp_path, "c.json", json.dumps(ROWS[2:]))
    file_of(tmp_path, "b.csv", "text,source\nbé,b\n")
    write(tmp_path / "a.jsonl", ROWS[:1])
    file_of(tmp_path, "README.md", "not data")
    (tmp_path / "d.json").mkdir()
    places = [f"{tmp_path / 'a.jsonl'}:1", f"{tmp_path / 'b.csv'}:2", f"{tmp_path / 'c.json'}, item 0"]
    assert opened(tmp_path).description == f"{tmp_path} (3 files; not read: README.md)"
    assert list(opened(tmp_path).rows()) == list(map(SourceRow, ROWS, places))


def test_a_bad_row_is_one_row_and_counts(tmp_path: Path) -> None:
    path = file_of(tmp_path, "rows.jsonl", 'x\n\n{"text": "a"}\n7\n{"body": "b"}\n')
    source = opened(path)
    assert contents(source) == [
        "not JSON: Expecting value at column 1", {"text": "a"}, "int, wanted an object with columns", {"body": "b"},
    ]  # fmt: skip
    assert [row.place for row in source.rows()] == [f"{path}:{line}" for line in (1, 3, 4, 5)]
    # The columns are those of the first rows that can be read.
    assert source.columns == ("text", "body")
    assert contents(opened(path, max_samples=2)) == contents(source)[:2]


def test_a_file_of_bad_rows_alone(tmp_path: Path) -> None:
    path = file_of(tmp_path, "rows.jsonl", "\nx\n7\n")
    assert refusal(path).message == f"{path}:2: not JSON: Expecting value at column 1; no row can be read"
    path = file_of(tmp_path, "rows.json", "[1, 2]")
    assert refusal(path).message == f"{path}, item 0: int, wanted an object with columns; no row can be read"


def test_a_file_without_rows(tmp_path: Path) -> None:
    path = file_of(tmp_path, "rows.jsonl", "\n")
    error = refusal(path)
    assert (error.message, error.cure) == (f"{path} holds no rows", "A data set needs at least one.")


def test_damage_in_a_later_file_ends_the_pass(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    broken = file_of(tmp_path, "b.csv", 'text\n"a')
    assert refusal(tmp_path).message == f"{broken}:2: not CSV: a quotation mark is not closed"


def test_the_fingerprint_is_of_the_content_and_not_of_the_path(tmp_path: Path) -> None:
    path, same, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "c.jsonl"
    write(path, ROWS)
    shutil.copy(path, same)
    write(other, ROWS[::-1])
    assert opened(path).fingerprint == opened(same).fingerprint
    assert opened(path).fingerprint != opened(other).fingerprint
    assert opened(path).fingerprint != opened(path, max_samples=2).fingerprint
    before = opened(path).fingerprint
    write(path, ROWS[:2])
    assert opened(path).fingerprint != before


def test_max_samples_takes_the_first_rows_over_files(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS[:1])
    write(tmp_path / "b.jsonl", ROWS[1:])
    source = opened(tmp_path, max_samples=2)
    assert contents(source) == ROWS[:2]
    assert source.description == f"{tmp_path} (2 files), the first 2"
    assert contents(opened(tmp_path, max_samples=99)) == ROWS


def test_the_embedded_rows_are_a_source_too() -> None:
    source = opened("tiny/text")
    assert contents(source) == tiny_rows.text()
    assert source.description == "tiny/text"


def test_the_home_folder_is_known_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "rows.jsonl", ROWS)
    assert contents(opened("~/rows.jsonl")) == ROWS


def test_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("rows.jsonl", "./rows", str(tmp_path / "rows"), "~nobody-of-that-name/rows"):
        error = refusal(path)
        assert error.message == f"no such file or folder: {path.removeprefix('./')}"
        assert error.cure == (
            f"The path is relative to the current folder, {tmp_path}; a hub data set is named owner/name."
        )


def test_a_suffix_that_is_none_of_ours(tmp_path: Path) -> None:
    path = file_of(tmp_path, "rows.txt", "a")
    assert refusal(path).message == f"{path} is not one of .jsonl, .json, .csv, .parquet"


def test_a_folder_without_data(tmp_path: Path) -> None:
    file_of(tmp_path, "rows.txt", "a")
    assert refusal(tmp_path).message == f"the folder {tmp_path} holds no file of .jsonl, .json, .csv, .parquet"


def test_a_later_file_of_a_folder_that_the_system_does_not_read(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    # Root reads every file, but nobody the start of a process's memory.
    (tmp_path / "b.jsonl").symlink_to("/proc/self/mem")
    assert refusal(tmp_path).message == f"{tmp_path / 'b.jsonl'} cannot be read: Input/output error"


@pytest.mark.parametrize("path", ["/" + "a" * 5000, "a" * 5000 + ".jsonl"])
def test_a_path_that_is_too_long(path: str) -> None:
    assert refusal(path).message == f"{path} cannot be read: File name too long"


@pytest.mark.parametrize("key", ["name", "revision"])
def test_a_local_file_has_no_subset_or_revision(tmp_path: Path, key: str) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(SettingError, match=f"is local and has no {key}") as caught:
        opened(tmp_path / "rows.jsonl", **{key: "main"})
    assert caught.value.key == f"dataset.{key}"


# Splits


@pytest.mark.parametrize("name", ["test.jsonl", "test-00000-of-00001.jsonl", "test_a.jsonl"])
def test_a_split_is_the_files_that_carry_its_name(tmp_path: Path, name: str) -> None:
    write(tmp_path / "train.jsonl", ROWS[:1])
    write(tmp_path / name, ROWS[1:])
    write(tmp_path / "testing.jsonl", ROWS)
    assert contents(opened(tmp_path, split="test")) == ROWS[1:]
    assert contents(opened(tmp_path)) == ROWS[:1]


def test_a_split_that_no_file_carries(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, ROWS)
    wanted = "local files have the split train, or one a file (test.jsonl in a folder)"
    for place in (path, tmp_path):
        assert refusal(place, "dataset.split", split="test").message == f"split test in {place}: {wanted}"


OTHERS = ["test", "validation-1", "Test_2", "val1", "dev", "eval.part", "evaluation"]
OWN = ["devices", "evals", "protest", "support", "testimonials", "values", "대화"]


def test_files_of_other_splits_are_not_trained_on(tmp_path: Path) -> None:
    for name in [*OTHERS, *OWN]:
        write(tmp_path / f"{name}.jsonl", [{"text": name}])
    assert [row["text"] for row in contents(opened(tmp_path))] == OWN


def test_a_folder_of_other_splits_alone(tmp_path: Path) -> None:
    for name in ("test.jsonl", "dev.csv"):
        file_of(tmp_path, name, "")
    error = refusal(tmp_path, "dataset.split")
    assert error.message == f"no file in {tmp_path} is for training: dev.csv, test.jsonl"
    assert error.cure == "Set dataset.split."


# Names of columns


def test_columns_are_renamed(tmp_path: Path) -> None:
    path = file_of(tmp_path, "rows.jsonl", '{"q": "a", "n": 1}\nx\n{"n": 2}\n{"q": "b"}\n')
    source = opened(path, rename_columns={"q": "instruction"})
    assert source.columns == ("instruction", "n")
    bad = "not JSON: Expecting value at column 1"
    assert contents(source) == [{"instruction": "a", "n": 1}, bad, {"n": 2}, {"instruction": "b"}]
    assert [row.place for row in source.rows()] == [f"{path}:{line}" for line in (1, 2, 3, 4)]
    assert contents(opened(path, rename_columns={"q": "p"}, max_samples=1)) == [{"p": "a", "n": 1}]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"question": "instruction"}, "no column question; there are: text, source"),
        ({"text": "source"}, "there is source already; there are: text, source"),
        ({"text": "text"}, "there is text already; there are: text, source"),
        ({"text": "x", "source": "x"}, "two columns are renamed to x"),
    ],
)
def test_renames_that_do_not_fit_the_columns(tmp_path: Path, names: dict[str, str], message: str) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(SettingError) as caught:
        opened(tmp_path / "rows.jsonl", rename_columns=names)
    assert (caught.value.message, caught.value.key) == (message, "dataset.rename_columns")
    assert caught.value.exit_code == ExitCode.CONFIG
    assert caught.value.cure


def test_a_later_row_that_has_the_new_name_too(tmp_path: Path) -> None:
    later = '{"q": "b", "p": "c"}\n{"p": "d"}\n'
    source = opened(file_of(tmp_path, "a.jsonl", '{"q": "a"}\n' * 100 + later), rename_columns={"q": "p"})
    assert contents(source)[99:] == [{"p": "a"}, "holds both q and p, which are renamed to one", {"p": "d"}]
    assert [row.content.fault for row in source.rows() if isinstance(row.content, RowError)] == ["wrong shape"]


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, ROWS)
    source = opened(path)
    assert contents(source) == ROWS
    write(path, [*ROWS, ROWS[0]])
    with pytest.raises(DataError, match=r"rows.jsonl changed while it was read"):
        list(source.rows())


# The hub

FILE = "hf://datasets/owner/name@0123abc/data/train-00000-of-00001.parquet"


def table_of(rows: Rows, *files: str) -> datasets.Dataset:
    """What `load_dataset` returns for a data set on the hub: a table that knows which files it was made from."""
    table = datasets.Dataset.from_list(rows)
    table.info.download_checksums = {file: {"num_bytes": 1, "checksum": None} for file in files} or None
    return table


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[datasets.Dataset], list[Any]]:
    """Lets the hub hold one table; the list that comes back is filled with what is asked of it."""

    def hold(table: datasets.Dataset) -> list[Any]:
        asked: list[Any] = []

        def load_dataset(*arguments: Any, **keys: Any) -> datasets.Dataset:
            asked.append((*arguments, keys))
            return table

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return hold


Hub = Callable[[datasets.Dataset], list[Any]]


def test_a_data_set_of_the_hub(hub: Hub) -> None:
    asked = hub(table_of(ROWS, FILE))
    source = opened("owner/name", name="small", revision="main", split="train[:3]", max_samples=2)
    assert asked == [("owner/name", "small", {"split": "train[:3]", "revision": "main"})]
    assert source.description == "owner/name, small, split train[:3], the first 2"
    assert source.columns == ("text", "source")
    assert list(source.rows()) == list(source.rows()) == [SourceRow(row) for row in ROWS[:2]]
    assert opened("owner/name").description == "owner/name, split train"


def test_the_fingerprint_of_the_hub_is_that_of_its_files(hub: Hub) -> None:
    def fingerprint(rows: Rows, *files: str, **settings: Any) -> str:
        hub(table_of(rows, *files))
        return opened("owner/name", **settings).fingerprint

    first = fingerprint(ROWS, FILE, "b")
    assert fingerprint(ROWS, "b", FILE) == first
    assert fingerprint(ROWS[:1], FILE, "b") == first  # the addresses hold the commit: they say enough
    assert fingerprint(ROWS, FILE.replace("0123abc", "4567def"), "b") != first
    assert fingerprint(ROWS, FILE) != first
    assert fingerprint(ROWS, FILE, "b", name="small") != first
    assert fingerprint(ROWS, FILE, "b", split="test") != first
    # Of a set without files, what `datasets` says of the table.
    assert fingerprint(ROWS) == fingerprint(ROWS) != fingerprint(ROWS[:1])


def test_media_are_neither_decoded_nor_shown(hub: Hub) -> None:
    media = {"bytes": b"no picture", "path": "a"}
    features = datasets.Features(
        {
            "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
            "picture": datasets.Image(),
            "pictures": datasets.List(datasets.Image()),
            "sound": datasets.Audio(),
            "clips": datasets.LargeList(datasets.Video()),
        }
    )
    messages = [{"role": "user", "content": "Hi"}]
    row = {"messages": messages, "picture": media, "pictures": [media], "sound": media, "clips": [media]}
    table = table_of([row]).cast(features)
    with pytest.raises(Exception, match="cannot identify image file"):
        table[0]
    hub(table)
    source = opened("owner/name")
    assert source.columns == ("messages",)
    assert contents(source) == [{"messages": messages}]


def test_a_data_set_of_the_hub_without_rows(hub: Hub) -> None:
    hub(table_of([]))
    assert refusal("owner/name", "dataset.split", split="x").message == "owner/name has no rows in split x"


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
