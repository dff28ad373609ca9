"""Words for a person: counts, and what takes its time."""

import io

import pytest
from rich.console import Console

from gptoss_ft.reporting.console import counted, make_console, working


@pytest.mark.parametrize(("number", "words"), [(0, "0 files"), (1, "1 file"), (1200, "1,200 files")])
def test_one_is_not_many(number: int, words: str) -> None:
    assert counted(number, "file") == words


def test_work_is_a_line_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with working(make_console(stream), "asking [both]"):
        assert stream.getvalue() == "asking [both]\n"
    assert stream.getvalue() == "asking [both]\n"


def test_and_a_spinner_where_there_is_one() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with working(console, "asking [both]"):
        pass
    assert isinstance(console.file, io.StringIO)
    assert "asking [both]" in console.file.getvalue()
