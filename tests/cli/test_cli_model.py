"""Models that cannot be used (exit code 3), the machine (4) and the hub (5)."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import OFFLINE, OFFLINE_CURE, Run

from gptoss_ft.errors import ExitCode

# The model's files: exit code 3.


@pytest.mark.parametrize("name", ["./nope", "/nope/x", "a/b/c", "a b"])
def test_a_model_that_is_neither_a_folder_nor_a_name(train: Run, name: str) -> None:
    train(f"model.name={name}").check(
        ExitCode.DATA,
        f"error: --set model.name: {name} is neither a file or folder here nor a name on the hub",
        "Check the path, which starts from the current folder, or the name, as owner/name.",
    )


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"config__json": None}, "./model is not a model that transformers knows: "),
        ({"config__json": b"{}"}, "./model is not a model that transformers knows: "),
        ({"config__json": b"{nope"}, "./model holds a broken file: "),
        ({"tokenizer__json": None}, "./model has no tokenizer that can be read (tokenizer.json): ValueError: "),
        (
            {"tokenizer__json": b"garbage"},
            "./model has no tokenizer that can be read (tokenizer.json): JSONDecodeError: ",
        ),
        ({"tokenizer__json": b"{}"}, "./model has no tokenizer that can be read (tokenizer.json): KeyError: "),
        (
            {"tokenizer__json": b"\xff"},
            "./model has no tokenizer that can be read (tokenizer.json): UnicodeDecodeError: ",
        ),
        ({"tokenizer_config__json": b"nope"}, "./model has no tokenizer that can be read (tokenizer.json): JSON"),
        ({"model__safetensors": None}, "./model has no weights as safetensors; pickles "),
        ({"model__safetensors": b""}, "./model holds a broken weights file: "),
        ({"model__safetensors": b"garbage" * 20}, "./model holds a broken weights file: "),
    ],
    ids=str,
)
def test_a_model_folder_that_lacks_a_file_or_holds_a_broken_one(
    train: Run, model: Callable[..., str], files: dict[str, bytes | None], problem: str
) -> None:
    ended = train(model(**files))
    assert ended.code == ExitCode.DATA
    assert ended.stderr.startswith(f"error: --set model.name: {problem}")


def test_weights_that_are_cut_short(train: Run, model: Callable[..., str], tiny_llama: Path) -> None:
    whole = (tiny_llama / "model.safetensors").read_bytes()
    ended = train(model(model__safetensors=whole[: len(whole) // 2]))
    assert ended.code == ExitCode.DATA
    assert "./model holds a broken weights file: Error while deserializing header: " in ended.stderr


def test_a_tokenizer_that_tokenizers_itself_refuses(train: Run, model: Callable[..., str], tiny_llama: Path) -> None:
    content = json.loads((tiny_llama / "tokenizer.json").read_bytes())
    content["model"] = {"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]}
    ended = train(model(tokenizer__json=json.dumps(content).encode()))
    assert ended.code == ExitCode.DATA
    assert "./model has no tokenizer that can be read (tokenizer.json): Exception: " in ended.stderr


def test_an_adapter_that_is_not_there(train: Run) -> None:
    train("model.adapter=./nope").check(
        ExitCode.DATA,
        "error: --set model.adapter: ./nope is neither a file or folder here nor a name on the hub",
        "Check the path, which starts from the current folder, or the name, as owner/name.",
    )


# The machine: exit code 4.


def test_no_gpu(train: Run) -> None:
    ended = train("model.device=cuda")
    assert ended.code == ExitCode.MACHINE
    assert ended.stderr.startswith("error: --set model.device: no NVIDIA GPU can be used: ")
    assert not Path("outputs").exists()


# The hub: exit code 5.


@pytest.mark.parametrize("key", ["model.name", "dataset.path", "model.adapter"])
def test_the_hub_cannot_be_reached(train: Run, key: str) -> None:
    train(f"{key}=owner/name").check(ExitCode.HUB, f"error: --set {key}: owner/name {OFFLINE}", OFFLINE_CURE)


def test_nothing_to_push_with(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSH_TO_HUB", "true")
    train().check(ExitCode.HUB, "error: there is no token to push with", "Set HF_TOKEN, or unset PUSH_TO_HUB.")


@pytest.mark.parametrize("variable", ["PUSH_TO_HUB", "RUN_EVALUATION"])
def test_a_switch_that_says_neither_yes_nor_no(train: Run, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "flase")
    train().check(
        ExitCode.CONFIG,
        f"error: {variable}=flase: wanted yes or no, as one of true, 1, yes, on, false, 0, no, off",
        f"Set {variable} anew, or unset it.",
    )
