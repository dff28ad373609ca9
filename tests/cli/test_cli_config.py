"""Mistakes in the configuration: exit code 2."""

from pathlib import Path

import pytest
from command_line import JOB, Run

from gptoss_ft.errors import ExitCode

CONFIG_CURE = "docs/configuration.md lists every key, what it takes and its default."


def test_no_config_file(run: Run) -> None:
    run("--config", "nope.yaml").begins(ExitCode.CONFIG, "error: nope.yaml: no such file")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model: [", "job.yaml:1:9: not YAML"),
        ("model:\n  nam: x\n", "job.yaml:2:3: model.nam: unknown key; did you mean model.name?"),
        ("modell:\n  name: x\n", "job.yaml:1:1: modell: "),
        ("lora:\n  r: 0\n", "job.yaml:2:6: lora.r: read 0; wanted a whole number, 1 or more"),
    ],
)
def test_a_mistake_in_the_config(run: Run, text: str, problem: str) -> None:
    Path("job.yaml").write_text(text, encoding="utf-8")
    ended = run("--config", "job.yaml")
    assert ended.code == ExitCode.CONFIG
    assert ended.stderr.startswith(f"error: {problem}")
    assert ended.stdout == ""


def test_every_mistake_is_shown_at_once(train: Run) -> None:
    Path("job.yaml").write_text("lora:\n  r: 0\nmodel:\n  nam: x\n", encoding="utf-8")
    train("training.seed=-1").check(
        ExitCode.CONFIG,
        "error: job.yaml:2:6: lora.r: read 0; wanted a whole number, 1 or more",
        "job.yaml:4:3: model.nam: unknown key; did you mean model.name?",
        "--set training.seed: read -1; wanted a whole number from 0 to 4294967295",
        CONFIG_CURE,
    )


def test_a_place_is_no_emoji(run: Run) -> None:
    # Text of a terminal may hold codes of emoji, and `:100:` is one.
    Path("job.yaml").write_text("#\n" * 99 + "lra: 1\n", encoding="utf-8")
    assert run("--config", "job.yaml").stderr.startswith("error: job.yaml:100:1: lra: unknown key; ")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training.max_step=1", "--set training.max_step: unknown key; did you mean training.max_steps?"),
        ("lora.r", "--set lora.r: wanted KEY=VALUE, such as training.max_steps=100"),
        ("=3", "--set : wanted KEY=VALUE, such as training.max_steps=100"),
        ("lora.r=x", '--set lora.r: read "x"; wanted a whole number, 1 or more'),
    ],
)
def test_a_mistake_in_an_override(train: Run, override: str, problem: str) -> None:
    train(override).check(ExitCode.CONFIG, f"error: {problem}", CONFIG_CURE)


def test_the_length_is_more_than_the_models(train: Run) -> None:
    Path("job.yaml").write_text(JOB.replace("256", "100000"), encoding="utf-8")
    train().check(
        ExitCode.CONFIG,
        "error: job.yaml:3:19: model.max_seq_length: read 100000, but tiny/llama takes at most 4096 tokens",
        "Set model.max_seq_length to 4096 or less.",
    )


def test_a_key_of_an_override_or_of_nobody_has_its_place(train: Run) -> None:
    ended = train("model.max_seq_length=4097")
    assert ended.stderr.startswith("error: --set model.max_seq_length: ")
    assert train("dataset.format=custom").stderr.startswith("error: job.yaml:9:1 (default): dataset.text_column: ")


def test_four_bits_on_the_cpu(train: Run) -> None:
    train("model.load_in_4bit=true").check(
        ExitCode.CONFIG,
        "error: --set model.load_in_4bit: 4-bit weights need an NVIDIA GPU, and the job runs on the CPU",
        "Set model.load_in_4bit: false, or run on a GPU.",
    )
