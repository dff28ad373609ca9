"""Noise in files, overrides and data sets → a job or exact lines, never a traceback."""

import json
from pathlib import Path
from typing import Any

import pytest
from config_files import load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_ft.config import DatasetSection
from gptoss_ft.errors import ConfigError

pytestmark = pytest.mark.usefixtures("empty_folder")

DEFAULT = (Path(__file__).parents[2] / "config.yaml").read_bytes()
SMALL = (
    b"model: &m\n  name: 'a b'\n  dtype: \"x\\u0041\"\nlora: {r: &r 8, alpha: *r, target_modules: [a, b]}\n"
    b"training:\n  <<: {max_steps: 3}\n  lr_scheduler_kwargs:\n    ? a\n    : 1\n  optim: >-\n    sgd\n"
)
SMALL_LIST = (
    b"dataset:\n- &a\n  path: a\n  weight: 1\n- <<: *a\n  path: 'b'\n  rename_columns: {x: y}\n"
    b"- {eval: true, name: [c]}\n- *a\n"
)
PIECES = st.sampled_from(
    [": ", ":", "\n", "\t", "'", '"', "[", "]", "{", "}", "&a ", "*a", "*m", "*r", "!!set ", "!<x> ", "!", "!a!b c",
     "%YAML 1.1\n---\n", "%YAML 9\n---\n", "%TAG ! x\n---\n", "---\n", "...\n", "? ", "- ", "|", "|-0\n", ">+9\n",
     "<<: ", "=", "@", "`", "#", "\x00", "\x85", "\u2028", "\ufeff", "\r\n", ".nan", "1e999", "0x", "0o8", "~", "\\",
     '"\\ud800"', '"\\U00110000"', "null", "true", ",", "1:30", "2025-01-01", "!!binary x", "!%41", "!<%zz>",
     "\U0001f600", "hf_abcdefgh", "lora", "max_steps", "training:\n  ", "9" * 40,
     "dataset: ", "dataset[0]", "\n- ", "\n- path: ", "prepared: x"]
)  # fmt: skip
NOISE = st.one_of(PIECES.map(str.encode), st.binary(max_size=4))
EDITS = st.lists(st.tuples(st.integers(0, 400), st.sampled_from([0, 0, 1, 3, 10]), NOISE), max_size=6)
KEYS_TRIED = st.sampled_from(
    ["lora.r", "lora", "dataset.prompt_date", "lora.target_modules", "model.name", "x.y", "", "dataset.path",
     "dataset[0].path", "dataset[1].weight", "dataset[2].rename_columns", "dataset[9].eval", "dataset[0]", "dataset[",
     "dataset[0].rename_columns.x", "dataset[0][0].path", "dataset[\u0663].path", "lora[0].r"]
)  # fmt: skip
SET = st.builds(
    lambda key, equals, pieces: key + equals + "".join(pieces),
    KEYS_TRIED, st.sampled_from(["=", "=", "", " = "]), st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=4),
)  # fmt: skip


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    base=st.sampled_from([SMALL, SMALL, SMALL_LIST, SMALL_LIST, b"", b"lora:\n  r: 1\n"]),
    edits=EDITS,
    overrides=st.lists(SET, max_size=2),
)
def test_noise_gives_a_job_or_a_config_error(
    base: bytes, edits: list[tuple[int, int, bytes]], overrides: list[str]
) -> None:
    data = bytearray(base)
    for at, cut, piece in edits:
        data[at : at + cut] = piece
    _job_or_config_error(bytes(data), overrides)


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(at=st.integers(0, len(DEFAULT)), cut=st.integers(0, 40), piece=NOISE)
def test_noise_in_the_default_config(at: int, cut: int, piece: bytes) -> None:
    _job_or_config_error(DEFAULT[:at] + piece + DEFAULT[at + cut :], [])


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 40), st.floats(), st.text(max_size=4),
    st.sampled_from(["a", "medium", "custom", "drop", "error", "2025-06-01", "hf_abcdefgh"]),
)  # fmt: skip
NESTED = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)
ENTRY = st.dictionaries(
    st.sampled_from([*DatasetSection.model_fields, "pth"]) | st.text(max_size=3), NESTED, max_size=3
)


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(dataset=st.one_of(NESTED, ENTRY, st.lists(ENTRY | NESTED, max_size=3)))
def test_any_dataset_gives_a_job_or_errors_with_places(dataset: Any) -> None:
    _job_or_config_error(json.dumps({"dataset": dataset}).encode(), [])


VALID_ENTRY = st.fixed_dictionaries(
    {"path": st.sampled_from(["a", "b/c"])},
    optional={
        "format": st.sampled_from(["sharegpt", "alpaca", "prompt_completion", "custom"]),
        "eval_fraction": st.floats(0, 1, exclude_max=True),
        "max_samples": st.none() | st.integers(1, 9),
        "rename_columns": st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")),
        "role_key": st.none() | st.just("who"),
    },
)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(dataset=VALID_ENTRY | st.lists(VALID_ENTRY, min_size=1, max_size=4))
def test_a_dumped_job_loads_to_itself_and_keeps_its_shape(dataset: Any) -> None:
    loaded = load(json.dumps({"dataset": dataset}))
    dumped = loaded.job.model_dump()
    assert isinstance(dumped["dataset"], list) == isinstance(dataset, list)
    entries = dataset if isinstance(dataset, list) else [dataset]
    for index, (entry, taken) in enumerate(zip(entries, loaded.job.datasets, strict=True)):
        assert {key: getattr(taken, key) for key in entry} == entry
        owner = f"dataset[{index}]" if isinstance(dataset, list) else "dataset"
        assert all(f"{owner}.{key}" in loaded.source.marks for key in entry)
    assert load(json.dumps(dumped)).job == loaded.job


def _job_or_config_error(data: bytes, overrides: list[str]) -> None:
    problems = []
    try:
        load(data, *overrides).job.model_dump_json()
    except ConfigError as error:
        problems = [str(problem) for problem in error.problems] or ["an error must say what is wrong\n"]
    assert all(problem.isprintable() for problem in problems)
    assert not any("hf_abc" in problem for problem in problems)
