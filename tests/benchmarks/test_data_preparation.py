"""The benchmarks of data: the rows that they make, what they count, and how memory is measured."""

import importlib.util
import json
import os
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load_script(name):
    """Import a script by its path: `benchmarks` is no package, and this folder has the same name."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


data_preparation = load_script("data_preparation")
label_comparison = load_script("label_comparison")


def test_rows_are_finetomes_without_a_message_twice():
    rows = list(data_preparation.conversations(200, seed=1))
    messages = [message for row in rows for message in row["conversations"]]
    assert {len(row["conversations"]) for row in rows} == {2, 4, 6, 8}
    assert all(set(row) == {"conversations", "source", "score"} for row in rows)
    for row in rows:
        assert [message["from"] for message in row["conversations"]] == ["human", "gpt"] * (
            len(row["conversations"]) // 2
        )
    assert len({message["value"] for message in messages}) == len(messages)
    assert not any(f"<{slot}>" in message["value"] for message in messages for slot in data_preparation.WORDS)
    assert len({word for message in messages for word in message["value"].split()}) > 10_000


def test_fewer_rows_are_the_first_of_more(tmp_path):
    data_preparation.write_rows(tmp_path / "five", 5, seed=2)
    data_preparation.write_first_rows(tmp_path / "five", tmp_path / "three", 3)
    lines = (tmp_path / "three").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == list(islice(data_preparation.conversations(9, seed=2), 3))
    assert lines != [json.dumps(row, ensure_ascii=False) for row in data_preparation.conversations(3, seed=3)]


def test_the_model_folder_has_the_given_tokenizer(tmp_path, tiny_llama):
    data_preparation.write_model_folder(tmp_path / "model", tiny_llama, tmp_path / "cache")
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == (tiny_llama / "tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "gpt_oss"


def test_samples_are_counted_over_all_tables_and_in_a_slice():
    table = pa.table({"input_ids": [[1, 2, 3], [4], [5, 6]], "labels": [[-100, 2, 3], [-100], [5, 6]]})
    measurement = data_preparation.Measurement("unsloth", 5)
    data_preparation.count(measurement, [table, table.slice(1)])
    assert (measurement.samples, measurement.tokens, measurement.trained_tokens) == (5, 9, 6)


def test_memory_of_the_process_tree_grows_by_what_is_allocated():
    before, anonymous_before = data_preparation.process_tree_bytes(os.getsid(0))
    block = np.ones(64 * 2**20, np.uint8)
    after, anonymous_after = data_preparation.process_tree_bytes(os.getsid(0))
    assert anonymous_after - anonymous_before > 0.9 * block.nbytes
    assert after - before > 0.9 * block.nbytes
    assert data_preparation.process_tree_bytes(-1) == (0, 0)


def test_table_compares_at_the_peers_size():
    unsloth = data_preparation.Measurement("unsloth", 10, tokens=100, stages={"a": 3.0, "b": 1.0}, peak_gib=2.0)
    ours = data_preparation.Measurement("ours", 10, tokens=100, stages={"prepare": 2.0}, peak_gib=0.5)
    more = data_preparation.Measurement("ours", 20, tokens=200, stages={"prepare": 4.0}, peak_gib=0.5)
    text = data_preparation.table([unsloth, ours, more])
    assert "| unsloth | 10 | 100 | 4.0 | 2 | 25 |" in text
    assert text.count("times as fast") == 1
    assert "10 rows: ours is 2.0 times as fast, with 0.25 of the memory" in text


@pytest.mark.parametrize("arguments", [[], ["--tokenizer", "nowhere"]])
def test_a_tokenizer_is_needed(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        data_preparation.parse_arguments(arguments)
    assert "no tokenizer.json there" in capsys.readouterr().err


# A small harmony: <|start|> 1, assistant 2, <|channel|> 3, final 4, <|end|> 5, <|return|> 6, user 7, analysis 8; text
# from 10 on, headers without <|message|>.
HARMONY = SimpleNamespace(start=1, assistant=2, channel=3, final=4, end=5, stop=6)
USER = [1, 7, 10, 5]
Reference, Sample, IGNORED = label_comparison.Reference, label_comparison.Sample, label_comparison.IGNORED


def counted(samples, *answers):
    count = label_comparison.count_conversation(samples, [[answer] for answer in answers], HARMONY)
    return count.must, count.learned, count.prompt, count.end, count.context


def test_an_answer_trained_whole_is_learned_and_nothing_is_wrong():
    context, produced = [*USER, 1, 2], [3, 8, 20, 5, 1, 2, 3, 4, 21, 6]
    sample = Sample(context + produced, [IGNORED] * len(context) + produced)
    assert counted([sample], Reference(context, produced)) == (10, 10, 0, 0, 0)


def test_what_the_prompt_supplies_is_wrong_and_what_the_model_says_itself_is_not():
    context, produced = [*USER, 1, 2], [3, 8, 20, 5, 1, 2, 3, 4, 21, 6]
    sample = Sample(context + produced, [IGNORED] * len(USER) + [1, 2] + produced)
    assert counted([sample], Reference(context, produced)) == (10, 10, 2, 0, 0)


def test_an_earlier_answer_must_be_taught_to_stop():
    first, second = (
        Reference([*USER, 1, 2], [3, 4, 20, 6]),
        Reference([*USER, 1, 2, 3, 4, 20, 5, *USER, 1, 2], [3, 4, 21, 6]),
    )
    ids = second.context + second.produced
    as_input = Sample(ids, [IGNORED] * 6 + [3, 4, 20, 5] + [IGNORED] * 6 + [3, 4, 21, 6])
    assert counted([as_input], first, second) == (8, 7, 0, 1, 0)
    as_produced = Sample(ids, [IGNORED] * 6 + [3, 4, 20, 6] + [IGNORED] * 6 + [3, 4, 21, 6])
    assert counted([as_produced], first, second) == (8, 8, 0, 0, 0)


def test_an_answer_without_its_thinking_stands_in_a_wrong_context():
    reference = Reference([*USER, 1, 2], [3, 8, 20, 5, 1, 2, 3, 4, 21, 6])
    sample = Sample([*USER, 1, 2, 3, 4, 21, 6], [IGNORED] * 6 + [3, 4, 21, 6])
    # Only <|channel|> stands where it must: what follows is another channel.
    assert counted([sample], reference) == (10, 1, 0, 0, 3)


def test_an_answer_counts_once_however_many_samples_hold_it_and_by_its_best_reference():
    context, produced = [*USER, 1, 2], [3, 4, 20, 6]
    sample = Sample(context + produced, [IGNORED] * len(context) + produced)
    assert counted([sample, sample], Reference(context, produced)) == (4, 4, 0, 0, 0)
    other = Reference([9, *context], produced)
    count = label_comparison.count_conversation([sample], [[other, Reference(context, produced)]], HARMONY)
    assert (count.must, count.learned, count.wrong, count.missing) == (4, 4, 0, 0)
