"""Data and output folders that cannot be used: exit code 3."""

import io
import json
import sys
from pathlib import Path

import pytest
from command_line import GOOD_LINE, ROW, Run

from gptoss_ft.errors import ExitCode

PATH = "error: job.yaml:10:9: dataset.path: "


def test_no_data_file(train: Run) -> None:
    Path("rows.jsonl").unlink()
    train().check(
        ExitCode.DATA,
        f"{PATH}no such file or folder: rows.jsonl",
        f"The path is relative to the current folder, {Path.cwd()}; a hub data set is named owner/name.",
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"\xff\n", "not UTF-8: byte 0xff at column 1"),
        (b"{\n", "not JSON: Expecting property name enclosed in double quotes at column 2"),
        (b'{"messages": []}\n', "holds no message"),
    ],
)
def test_data_that_cannot_be_used(train: Run, line: bytes, problem: str) -> None:
    Path("rows.jsonl").write_bytes(GOOD_LINE + line)
    train().check(
        ExitCode.DATA,
        f"{PATH}rows.jsonl: at least 1 row cannot be trained on",
        f"  row 1 (rows.jsonl:2): {problem}",
        "Mend them (rows count from 0), or leave such rows out: dataset.on_invalid: drop.",
    )


def test_no_rows(train: Run) -> None:
    Path("rows.jsonl").write_bytes(b"")
    train().check(ExitCode.DATA, f"{PATH}rows.jsonl holds no rows", "A data set needs at least one.")


def test_no_such_column(train: Run) -> None:
    train("dataset.messages_column=chat").check(
        ExitCode.DATA,
        "error: --set dataset.messages_column: no column chat; there are: messages",
        "Name the column of messages in dataset.messages_column, or set dataset.format to what the rows are.",
    )


def test_a_message_may_hold_what_no_terminal_can_show(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("rows.jsonl").write_text('{"[bold]\\ud800": 1}\n', encoding="utf-8")
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace"))  # as Python's own
    code = train().code
    sys.stderr.seek(0)
    shown = sys.stderr.read()
    assert (code, shown.splitlines()[0]) == (
        ExitCode.DATA,
        "error: job.yaml:9:1 (default): dataset.format: no column messages or conversations; there are: [bold]\\ud800",
    )


def test_all_samples_are_too_long(train: Run) -> None:
    Path("rows.jsonl").write_text(json.dumps(ROW).replace("Hello", "Hello " * 50), encoding="utf-8")
    ended = train("model.max_seq_length=16")
    assert ended.code == ExitCode.DATA
    assert "no sample is left to train on (1 longer than max_seq_length)" in ended.stderr
    assert "Raise model.max_seq_length: " in ended.stderr


def test_a_chat_template_that_cannot_be_read(train: Run) -> None:
    ended = train("model.chat_template=nope.jinja")
    assert ended.code == ExitCode.DATA
    assert "the chat template nope.jinja cannot be read: " in ended.stderr


def test_an_output_root_that_cannot_be_written(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("taken").write_text("a file", encoding="utf-8")
    for root, reason in (("taken", "File exists"), ("/proc/nope", "No such file or directory")):
        monkeypatch.setenv("GPTOSS_FT_OUTPUT_ROOT", root)
        train().begins(
            ExitCode.DATA,
            f"error: job.yaml:15:15: training.output_dir: the output folder {root}/run cannot be written: {reason}",
        )


def test_an_output_folder_that_is_a_strangers(train: Run) -> None:
    Path("outputs/run").mkdir(parents=True)
    Path("outputs/run/thesis.txt").write_text("mine", encoding="utf-8")
    ended = train()
    assert ended.code == ExitCode.DATA
    assert "is not empty and holds no " in ended.stderr
    assert Path("outputs/run/thesis.txt").read_text(encoding="utf-8") == "mine"
