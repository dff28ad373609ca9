"""Counts, quantiles, and the summary as a file."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gptoss_ft.data.summary import EXAMPLES, SourceSummary, SplitSummary, Summary, count, quantile


def summary_of() -> Summary:
    first = SourceSummary(description="a.jsonl", fingerprint="1", rows=5, kept=3)
    first.drop("too long", "row 1")
    first.drop("invalid: not text", "row 4")
    second = SourceSummary(description="b.jsonl", fingerprint="2", rows=2, kept=1, truncated=1, cut_answers=1)
    second.drop("too long", "row 0")
    train = SplitSummary(samples=4, rows=4, tokens=40, trained_tokens=9, lengths=Counter({10: 4}))
    train.channels["final"] = 9
    return Summary(
        key="k", tokenizer="t", max_seq_length=16, sources=[first, second], train=train, fingerprint="f",
        rendered_lengths=Counter({10: 4, 20: 2}),
    )  # fmt: skip


def test_sums_over_sources() -> None:
    summary = summary_of()
    assert summary.rows == 7
    assert summary.dropped == {"too long": 2, "invalid: not text": 1}
    assert summary.description == "a.jsonl; b.jsonl"


def test_a_file_holds_all_of_it() -> None:
    summary = summary_of()
    again = Summary.model_validate_json(summary.model_dump_json())
    assert again == summary
    assert again.rendered_lengths == {10: 4, 20: 2}
    assert again.train.channels["analysis"] == 0


def test_another_versions_file_is_refused() -> None:
    text = summary_of().model_dump_json()
    with pytest.raises(ValidationError):
        Summary.model_validate_json(text.replace('"plain_texts"', '"texts"'))
    with pytest.raises(ValidationError):
        Summary.model_validate_json(text.replace('"key":"k",', ""))


def test_facts_for_the_manifest() -> None:
    facts = summary_of().as_facts()
    assert (facts["rows"], facts["samples"], facts["sha256"], facts["key"]) == (7, 4, "f", "k")
    assert facts["sources"][0]["dropped"] == {"too long": 1, "invalid: not text": 1}
    assert facts["train"] == {
        "samples": 4, "rows": 4, "tokens": 40, "trained_tokens": 9, "plain_texts": 0, "channels": {"final": 9},
        "efforts": {},
    }  # fmt: skip
    assert not facts.keys() & {"fingerprint", "rendered_lengths"}


def test_the_first_rows_of_a_reason_are_named() -> None:
    source = SourceSummary(description="", fingerprint="")
    for number in range(EXAMPLES + 3):
        source.drop("too long", f"row {number}")
    source.drop("other", "row 99")
    assert source.dropped == {"too long": EXAMPLES + 3, "other": 1}
    assert source.examples == {"too long": ["row 0", "row 1", "row 2", "row 3", "row 4"], "other": ["row 99"]}


def test_the_length_that_keeps_a_share() -> None:
    summary = summary_of()
    summary.rendered_lengths = Counter({10: 98, 50: 1, 4000: 1})
    assert [summary.length_that_keeps(share) for share in (0.5, 0.98, 0.99, 0.991, 1.0)] == [10, 10, 50, 4000, 4000]
    assert quantile(Counter(), 0.99) == 0
    # 0.07 * 100 is a little more than 7.
    assert quantile(Counter({1: 7, 2: 93}), 0.07) == 1


@given(st.lists(st.integers(1, 50), min_size=1), st.integers(1, 100))
def test_a_quantile_is_the_smallest_length_that_enough_samples_do_not_exceed(lengths: list[int], percent: int) -> None:
    found = quantile(Counter(lengths), percent / 100)
    enough = [length for length in lengths if sum(other <= length for other in lengths) * 100 >= percent * len(lengths)]
    assert found == min(enough)


@given(st.lists(st.integers(0, 9)))
def test_count(values: list[int]) -> None:
    assert count(values) == Counter(values)
    assert count(np.array(values, np.int32)) == Counter(values)
    assert all(type(value) is int and type(times) is int for value, times in count(values).items())
