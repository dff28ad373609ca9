"""The sample rows have the schemas of the data sets that they stand for, and true answers."""

import json
import re
from pathlib import Path

from gptoss_ft import tiny
from gptoss_ft.tiny import rows
from gptoss_ft.tiny.phrases import LANGUAGES


def test_multilingual_thinking_has_the_real_columns() -> None:
    made = rows.multilingual_thinking()
    assert len(made) == 144
    for row in made:
        assert list(row) == ["reasoning_language", "developer", "user", "analysis", "final", "messages"]
        system, user, assistant = row["messages"]
        assert system == {
            "content": f"reasoning language: {row['reasoning_language']}\n\n{row['developer']}",
            "role": "system",
            "thinking": None,
        }
        assert user == {"content": row["user"], "role": "user", "thinking": None}
        assert assistant == {"content": row["final"], "role": "assistant", "thinking": row["analysis"]}
    assert {row["reasoning_language"] for row in made} == {language.name for language in LANGUAGES}
    assert len({(row["user"], row["analysis"]) for row in made}) == len(made)


def test_finetome_has_one_to_four_exchanges() -> None:
    made = rows.finetome()
    assert len(made) == 144
    exchanges = set()
    for row in made:
        assert list(row) == ["conversations", "source", "score"]
        speakers = [turn["from"] for turn in row["conversations"]]
        if speakers[0] == "system":
            speakers = speakers[1:]
        assert speakers == ["human", "gpt"] * (len(speakers) // 2)
        exchanges.add(len(speakers) // 2)
    assert exchanges == {1, 2, 3, 4}
    assert sum(row["conversations"][0]["from"] == "system" for row in made) == 29


def test_text_has_one_column() -> None:
    made = rows.text()
    assert len(made) == len({row["text"] for row in made}) == 144
    assert all(list(row) == ["text"] for row in made)


def test_sums_are_right() -> None:
    sums = [
        [int(number) for number in re.findall(r"\d+", row["final"])]
        for row in rows.multilingual_thinking()[:: rows.KINDS]
    ]
    assert len(sums) == 48
    assert all(a + b == c for a, b, c in sums)


def test_every_language_has_the_same_dictionary() -> None:
    for language in LANGUAGES:
        assert len(language.days) == 7
        assert len(language.words) == len(LANGUAGES[0].words)
        assert len(language.languages) == len(LANGUAGES)


def test_the_file_holds_the_rows_in_utf8(tmp_path: Path) -> None:
    assert tuple(rows.DATASETS) == tiny.DATASETS
    for name, make in rows.DATASETS.items():
        lines = tiny.materialize(name, tmp_path).read_bytes().decode("utf-8").splitlines()
        assert [json.loads(line) for line in lines] == make()
    assert "월요일" in tiny.materialize("tiny/text", tmp_path).read_text(encoding="utf-8")
