"""What the policies keep, leave out and refuse, and how every row is counted."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.adapters import open_adapter
from gptoss_ft.data.conversation import RowError
from gptoss_ft.data.entries import Entry
from gptoss_ft.data.intake import ENOUGH_ERRORS, FIRST_ROWS, Intake, LaidOut, check_first_rows
from gptoss_ft.data.readers import SourceRow
from gptoss_ft.data.rendering import IGNORED, Sample
from gptoss_ft.data.sources import RowSource
from gptoss_ft.data.storage import Rendered
from gptoss_ft.data.summary import SourceSummary
from gptoss_ft.errors import DataError, ExitCode, SettingError

LONGEST = 10
GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
BAD = {"messages": [{"role": "user", "content": "Hi"}]}
NO_ANSWER = "ends with a user message: there is no answer to learn"


def entry_of(rows: list[SourceRow] | None = None, key: str = "dataset", **settings: Any) -> Entry:
    config = DatasetSection(path="rows.jsonl", **settings)
    source = RowSource("rows.jsonl", ("messages",), lambda: iter(rows or []), "fingerprint")
    return Entry(0, key, config, source, open_adapter(config, source.columns))


def intake_of(key: str = "dataset", **settings: Any) -> Intake:
    return Intake(entry_of(key=key, **settings), LONGEST, SourceSummary(description="rows.jsonl", fingerprint=""))


def laid_out(number: int) -> LaidOut:
    return LaidOut(number, f"rows.jsonl:{number + 1}", [], "medium")


def sample_of(*stretches: tuple[int, str]) -> Sample:
    """Stretches of (tokens, channel); each trained one is an answer, but for text."""
    ids = np.arange(sum(length for length, _ in stretches), dtype=np.int32)
    labels = np.full(len(ids), IGNORED, np.int32)
    spans, answers, position = [], [], 0
    for length, channel in stretches:
        end = position + length
        if channel:
            labels[position:end] = ids[position:end]
            spans.append((position, end, channel))
            if channel != "text":
                answers.append((position, end))
        position = end
    return Sample(ids, labels, spans, answers)


def taken(intake: Intake, number: int, made: list[Sample] | RowError) -> list[Rendered]:
    return list(intake.take(laid_out(number), made))


def test_a_sample_of_exactly_the_longest_length_is_kept_with_its_origin() -> None:
    intake = intake_of()
    first, second = sample_of((4, ""), (6, "final")), sample_of((3, ""), (2, "final"))
    kept = taken(intake, 7, [first, second])
    assert [(each.source, each.source_row, each.sample_index, each.effort) for each in kept] == [
        (0, 7, 0, "medium"),
        (0, 7, 1, "medium"),
    ]
    assert [each.sample for each in kept] == [first, second]
    assert intake.summary.rows == 1
    assert intake.summary.dropped.total() == 0
    assert intake.lengths == [10, 5]


def test_too_long_is_dropped_and_a_row_with_another_sample_is_kept() -> None:
    intake = intake_of()
    assert taken(intake, 0, [sample_of((4, ""), (7, "final"))]) == []
    kept = taken(intake, 1, [sample_of((11, "final")), sample_of((2, ""), (1, "final"))])
    assert [(each.source_row, each.sample_index) for each in kept] == [(1, 1)]
    assert intake.summary.rows == 2
    assert intake.summary.dropped == {"longer than max_seq_length": 1}
    assert intake.summary.dropped_samples == {"longer than max_seq_length": 2}
    assert intake.summary.examples == {"longer than max_seq_length": ["row 0 (rows.jsonl:1): 11 tokens"]}
    assert intake.lengths == [11, 11, 3]
    intake.finish()


def test_what_trains_nothing_is_dropped_whatever_its_length() -> None:
    intake = intake_of(on_too_long="error")
    assert taken(intake, 0, [sample_of((4, ""))]) == []
    assert taken(intake, 1, [sample_of((40, ""))]) == []
    assert taken(intake, 2, []) == []
    assert intake.summary.dropped == {"without a trained token": 3}
    assert intake.summary.examples["without a trained token"] == [
        "row 0 (rows.jsonl:1): 4 tokens",
        "row 1 (rows.jsonl:2): 40 tokens",
        "row 2 (rows.jsonl:3): no answer in it is to be trained",
    ]
    assert intake.lengths == []
    intake.finish()


def test_too_long_is_an_error_that_names_the_row() -> None:
    intake = intake_of(key="dataset[1]", on_too_long="error")
    taken(intake, 0, [sample_of((2, "final"))])
    taken(intake, 1, [sample_of((2, "final")), sample_of((1_200, "final"))])
    with pytest.raises(DataError) as caught:
        intake.finish()
    assert caught.value.message == (
        "rows.jsonl: 1 row of 2 cannot be trained on\n"
        "  row 1 (rows.jsonl:2): 1,200 tokens, more than model.max_seq_length 10"
    )
    assert caught.value.cure == (
        "Raise model.max_seq_length (1,200 keeps those above), or set dataset[1].on_too_long to drop or truncate."
    )
    assert (caught.value.key, caught.value.exit_code) == ("dataset[1].path", ExitCode.DATA)


def test_truncate_keeps_whole_answers_and_no_label_of_one_that_is_cut() -> None:
    intake = intake_of(on_too_long="truncate")
    (kept,) = taken(intake, 0, [sample_of((2, ""), (3, "final"), (2, ""), (5, "final"), (1, "final"))])
    assert kept.sample.input_ids.tolist() == list(range(10))
    assert kept.sample.labels.tolist() == [IGNORED, IGNORED, 2, 3, 4, *[IGNORED] * 5]
    assert kept.sample.channels == {"final": 3}
    assert (intake.summary.truncated, intake.summary.cut_answers) == (1, 2)


def test_truncate_keeps_an_answer_that_ends_where_the_cut_is() -> None:
    intake = intake_of(on_too_long="truncate")
    (kept,) = taken(intake, 0, [sample_of((4, ""), (6, "final"), (3, ""))])
    assert kept.sample.labels.tolist() == [*[IGNORED] * 4, 4, 5, 6, 7, 8, 9]
    assert (intake.summary.truncated, intake.summary.cut_answers) == (1, 0)


def test_truncate_simply_cuts_plain_text() -> None:
    intake = intake_of(on_too_long="truncate")
    (kept,) = taken(intake, 0, [sample_of((12, "text"))])
    assert kept.sample.labels.tolist() == list(range(10))
    assert (intake.summary.truncated, intake.summary.cut_answers) == (1, 0)


@pytest.mark.parametrize("answer", [(2, "final"), (2, "text")], ids=["an answer", "what no token ends"])
def test_truncate_drops_what_is_left_without_a_label(answer: tuple[int, str]) -> None:
    intake = intake_of(on_too_long="truncate")
    assert taken(intake, 0, [sample_of((10, ""), answer)]) == []
    assert intake.summary.dropped == {"longer than max_seq_length": 1}
    assert intake.summary.examples["longer than max_seq_length"] == ["row 0 (rows.jsonl:1): 12 tokens"]
    assert (intake.summary.truncated, intake.summary.cut_answers) == (0, 0)


def test_refused_rows_are_all_named_at_the_end() -> None:
    intake = intake_of()
    taken(intake, 0, [sample_of((2, "final"))])
    taken(intake, 1, RowError("is wrong", "wrong shape"))
    taken(intake, 2, RowError("is worse", "not text"))
    with pytest.raises(DataError) as caught:
        intake.finish()
    assert caught.value.message == (
        "rows.jsonl: 2 rows of 3 cannot be trained on\n"
        "  row 1 (rows.jsonl:2): is wrong\n"
        "  row 2 (rows.jsonl:3): is worse"
    )
    assert caught.value.key == "dataset.path"


def test_reading_stops_after_ten_refused_rows() -> None:
    intake = intake_of()
    for number in range(ENOUGH_ERRORS - 1):
        taken(intake, number, RowError("is wrong", "wrong shape"))
    with pytest.raises(DataError) as caught:
        taken(intake, 9, RowError("is wrong", "wrong shape"))
    lines = caught.value.message.splitlines()
    assert lines[0] == "rows.jsonl: at least 10 rows cannot be trained on"
    assert lines[1:] == [f"  row {number} (rows.jsonl:{number + 1}): is wrong" for number in range(10)]


def test_a_row_without_a_place_is_named_by_its_number() -> None:
    assert LaidOut(3, "", [], "medium").named("is wrong") == "row 3: is wrong"


def dropping(share: float, bad: int, good: int) -> Intake:
    intake = intake_of(on_invalid="drop", max_invalid_fraction=share)
    for number in range(bad):
        taken(intake, number, RowError(f"is wrong, {number}", "wrong shape" if number % 2 else "not text"))
    for number in range(bad, bad + good):
        taken(intake, number, [sample_of((2, "final"))])
    return intake


def test_invalid_rows_are_dropped_by_kind_and_five_are_named() -> None:
    intake = dropping(0.5, bad=12, good=12)
    intake.finish()
    assert intake.summary.dropped == {"invalid: not text": 6, "invalid: wrong shape": 6}
    assert intake.summary.examples["invalid: not text"] == [
        f"row {number} (rows.jsonl:{number + 1}): is wrong, {number}" for number in (0, 2, 4, 6, 8)
    ]
    assert intake.summary.rows == 24


def test_more_invalid_rows_than_allowed_stop_the_run() -> None:
    intake = dropping(0.25, bad=3, good=5)
    with pytest.raises(DataError) as caught:
        intake.finish()
    assert caught.value.message == (
        "rows.jsonl: 37.5% of 8 rows are invalid\n"
        "  2 invalid: not text: row 0 (rows.jsonl:1): is wrong, 0\n"
        "  1 invalid: wrong shape: row 1 (rows.jsonl:2): is wrong, 1"
    )
    assert caught.value.cure == (
        "Mend the data or how it is read; dataset.max_invalid_fraction (now 0.25) allows more."
    )
    dropping(0.375, bad=3, good=5).finish()
    dropping(1.0, bad=3, good=0).finish()


def test_rows_that_are_dropped_otherwise_are_not_invalid() -> None:
    intake = intake_of(on_invalid="drop", max_invalid_fraction=0.0)
    taken(intake, 0, [sample_of((20, "final"))])
    taken(intake, 1, [])
    intake.finish()
    assert intake.summary.dropped.total() == 2


def first_rows(contents: list[Any]) -> list[SourceRow]:
    return [SourceRow(content, f"rows.jsonl:{number}") for number, content in enumerate(contents, start=1)]


def test_first_rows_are_checked_before_anything_else() -> None:
    rows = first_rows([GOOD, BAD, RowError("not JSON", "not readable")])
    with pytest.raises(DataError) as caught:
        check_first_rows([entry_of([SourceRow(GOOD)]), entry_of(rows, key="dataset[1]")])
    assert caught.value.message == (
        "rows.jsonl: at least 2 rows cannot be trained on\n"
        f"  row 1 (rows.jsonl:2): {NO_ANSWER}\n"
        "  row 2 (rows.jsonl:3): not JSON"
    )
    assert caught.value.key == "dataset[1].path"


def test_first_rows_are_not_more_than_a_hundred_and_no_matter_where_bad_ones_are_dropped() -> None:
    read: list[int] = []

    def rows() -> Iterator[SourceRow]:
        for number in range(FIRST_ROWS + 5):
            read.append(number)
            yield SourceRow(GOOD if number < FIRST_ROWS else BAD)

    entry = entry_of()
    source = RowSource("rows.jsonl", ("messages",), rows, "")
    check_first_rows([Entry(0, "dataset", entry.config, source, entry.adapter)])
    assert read == list(range(FIRST_ROWS))
    check_first_rows([entry_of(first_rows([BAD]), on_invalid="drop")])


def test_the_cure_fits_what_was_refused() -> None:
    intake = intake_of(on_too_long="error")
    taken(intake, 0, [sample_of((12, "final"))])
    with pytest.raises(DataError) as caught:
        intake.finish()
    assert caught.value.cure == (
        "Raise model.max_seq_length (12 keeps those above), or set dataset.on_too_long to drop or truncate."
    )


def test_a_thinking_key_that_no_message_has() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "thought": "c"}]
    rows = [SourceRow(GOOD)] * (FIRST_ROWS + 1) + [SourceRow({"messages": messages})]  # it may come late
    check_first_rows([entry_of(rows, thinking_key="thought")])
    with pytest.raises(SettingError, match="has the key thinkin; they have: role, content, thought") as caught:
        check_first_rows([entry_of(rows, thinking_key="thinkin")])
    assert caught.value.key == "dataset.thinking_key"


def test_a_tools_column_that_no_row_has() -> None:
    rows = [SourceRow(GOOD)] * (FIRST_ROWS + 1) + [SourceRow({**GOOD, "functions": []})]
    check_first_rows([entry_of(rows, tools_column="functions")])
    with pytest.raises(SettingError, match="no row has a column toolz") as caught:
        check_first_rows([entry_of(rows, key="dataset[1]", tools_column="toolz")])
    assert caught.value.key == "dataset[1].tools_column"


def test_messages_as_json_text_are_not_looked_into() -> None:
    text = json.dumps(GOOD["messages"])
    check_first_rows([entry_of([SourceRow({"messages": text})], thinking_key="thought")])
