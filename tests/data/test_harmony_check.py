"""`validate`'s comparison with openai-harmony: it counts what is equal, and a renderer that errs anywhere is caught."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai_harmony as oh
import pytest
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import JobConfig
from gptoss_ft.data.conversation import Conversation, Message, Record, Tool, ToolCall
from gptoss_ft.data.entries import Entry, open_entries
from gptoss_ft.data.harmony_check import check_against_openai_harmony, check_rows
from gptoss_ft.data.harmony_rendering import HarmonyRenderer
from gptoss_ft.data.rendering import Draft, Encoder, Part
from gptoss_ft.data.tokenizer import load_tokenizer

CONVERSATION = Conversation(
    (
        Message("system", "Be brief."),
        Message("user", "Rain?"),
        Message("assistant", "I look.", "Which tool?", (ToolCall("weather", "{}"), ToolCall("radar", '{"a": 1}'))),
        Message("tool", "no", name="weather"),
        Message("tool", "<|end|>", name="radar"),
        Message("assistant", "No.", "Clear."),
        Message("user", "Sure?"),
        Message("assistant", "Yes."),
    ),
    (
        Tool(
            "weather", "Weather now.", {"type": "object", "properties": {"city": {"type": "string", "default": "Oslo"}}}
        ),
    ),
    "high",
)
PLAIN = Conversation(
    (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "1"), Message("assistant", "2"))
)


@pytest.fixture(scope="module")
def tokenizer(real_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    return real_tokenizer


@pytest.fixture(scope="module")
def harmony(harmony_of_real_tokenizer: oh.HarmonyEncoding) -> oh.HarmonyEncoding:
    return harmony_of_real_tokenizer


@pytest.fixture(scope="module")
def renderer(tokenizer: PreTrainedTokenizerBase) -> HarmonyRenderer:
    return HarmonyRenderer(tokenizer, Encoder(tokenizer), "low", "2025-06-01", "completions")


def test_samples_that_are_equal_are_counted(renderer: HarmonyRenderer, harmony: oh.HarmonyEncoding) -> None:
    nothing = replace(PLAIN, messages=tuple(replace(message, train=False) for message in PLAIN.messages))
    unrenderable = replace(PLAIN, tools=(Tool("f", "", {"deep": float("nan")}),))
    conversations = [CONVERSATION, PLAIN, nothing, unrenderable]
    assert check_against_openai_harmony(conversations, renderer, renderer.encoder, harmony) == 3
    everything = replace(renderer, train_on="everything", date=None)
    assert check_against_openai_harmony(conversations, everything, renderer.encoder, harmony) == 3


Break = Callable[[HarmonyRenderer, list[Part]], list[Part]]


def other_text(renderer: HarmonyRenderer, parts: list[Part]) -> list[Part]:
    return [part._replace(tokens="Sure.") if str(part.tokens) == "Sure?" else part for part in parts]


def longer(renderer: HarmonyRenderer, parts: list[Part]) -> list[Part]:
    return [*parts, Part("\n")]


def live(renderer: HarmonyRenderer, parts: list[Part]) -> list[Part]:
    return [part._replace(live=True) for part in parts]


def plain_end(renderer: HarmonyRenderer, parts: list[Part]) -> list[Part]:
    """Earlier answers are learned with the <|end|> that their context shows."""
    return [part._replace(label=None) for part in parts]


def without_thinking(renderer: HarmonyRenderer, parts: list[Part]) -> list[Part]:
    return [part._replace(channel="") if part.channel == "analysis" else part for part in parts]


def without_answers(renderer: HarmonyRenderer, parts: list[Part]) -> list[Part]:
    return [part._replace(channel="") for part in parts]


def opening_too(renderer: HarmonyRenderer, parts: list[Part]) -> list[Part]:
    return [part._replace(channel=part.channel or "final") for part in parts]


@pytest.mark.parametrize(
    ("broken", "conversation", "difference"),
    [
        pytest.param(other_text, CONVERSATION, "differs from openai-harmony's", id="another text"),
        pytest.param(longer, PLAIN, "differs from openai-harmony's", id="tokens after the end"),
        pytest.param(live, CONVERSATION, "differs from openai-harmony's", id="typed control tokens are live"),
        pytest.param(plain_end, PLAIN, "openai-harmony", id="the label of an end"),
        pytest.param(without_thinking, CONVERSATION, "openai-harmony", id="thinking is not trained"),
        pytest.param(without_answers, PLAIN, "reads nothing from the labels", id="nothing is trained"),
        pytest.param(opening_too, PLAIN, "openai-harmony", id="the prompt is trained"),
    ],
)
def test_a_renderer_that_errs_is_caught(
    renderer: HarmonyRenderer, harmony: oh.HarmonyEncoding, broken: Break, conversation: Conversation, difference: str
) -> None:
    class Broken(HarmonyRenderer):
        def draft(self, record: Record) -> list[Draft]:
            return [replace(draft, parts=broken(self, draft.parts)) for draft in super().draft(record)]

    errs = Broken(renderer.tokenizer, renderer.encoder, "low", "2025-06-01", "completions")
    with pytest.raises(RuntimeError, match=difference):
        check_against_openai_harmony([conversation], errs, renderer.encoder, harmony)


def entry_of(dataset: dict[str, Any], model: str) -> tuple[JobConfig, Entry]:
    job = JobConfig.model_validate({"model": {"name": model}, "dataset": dataset})
    (entry,) = open_entries(job)
    return job, entry


def test_the_first_rows_of_an_entry_are_compared(tokenizer: PreTrainedTokenizerBase, samples_folder: Path) -> None:
    job, entry = entry_of({"path": str(samples_folder / "multilingual_thinking.jsonl")}, tokenizer.name_or_path)
    assert check_rows(job, entry, tokenizer, 10) == 10


def test_rows_that_cannot_be_read_are_left_out(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    talk = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'
    rows.write_text(f'{talk}\n{{"messages": []}}\nno JSON\n{talk}\n{talk}\n')
    job, entry = entry_of({"path": str(rows)}, tokenizer.name_or_path)
    assert check_rows(job, entry, tokenizer, 4) == 2


@pytest.mark.parametrize("model", ["tiny_gpt_oss", "tiny_llama"])
def test_another_vocabulary_or_another_format_is_not_compared(model: str, request: pytest.FixtureRequest) -> None:
    folder = str(request.getfixturevalue(model))
    job, entry = entry_of({"path": "tiny/finetome"}, folder)
    assert check_rows(job, entry, load_tokenizer(folder, None, None), 10) == 0
