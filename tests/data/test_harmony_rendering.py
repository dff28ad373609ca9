"""Tokens and labels against openai-harmony, the format's own implementation, on the real vocabulary.

Labels are derived once more here from the inference side: after the prompt that the model is shown, it must produce
exactly what openai-harmony's rendering for training holds from there on.
"""

from pathlib import Path

import openai_harmony as oh
import pytest
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.adapters import FORMATS
from gptoss_ft.data.conversation import Conversation, Message, Text
from gptoss_ft.data.harmony_rendering import HarmonyRenderer, is_harmony
from gptoss_ft.data.rendering import IGNORED, Sample
from gptoss_ft.data.sources import open_source
from gptoss_ft.data.tokenizer import load_tokenizer

DATE = "2025-06-01"
KEEP_ANALYSIS = oh.RenderConversationConfig(auto_drop_analysis=False)


@pytest.fixture(scope="module")
def tokenizer(real_tokenizer_folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(real_tokenizer_folder), None, None)


@pytest.fixture(scope="module")
def harmony(real_tokenizer_folder: Path) -> oh.HarmonyEncoding:
    return oh.load_harmony_encoding(oh.HarmonyEncodingName.HARMONY_GPT_OSS)


def as_harmony(messages: tuple[Message, ...], effort: str = "medium") -> list[oh.Message]:
    system = oh.SystemContent.new().with_conversation_start_date(DATE)
    system = system.with_reasoning_effort(oh.ReasoningEffort(effort.capitalize()))
    rendered = [oh.Message.from_role_and_content(oh.Role.SYSTEM, system)]
    for message in messages:
        if message.role in ("system", "developer"):
            content = oh.DeveloperContent.new().with_instructions(message.content)
            rendered.append(oh.Message.from_role_and_content(oh.Role.DEVELOPER, content))
        elif message.role == "user":
            rendered.append(oh.Message.from_role_and_content(oh.Role.USER, message.content))
        else:
            if message.thinking is not None:
                analysis = oh.Message.from_role_and_content(oh.Role.ASSISTANT, message.thinking)
                rendered.append(analysis.with_channel("analysis"))
            final = oh.Message.from_role_and_content(oh.Role.ASSISTANT, message.content)
            rendered.append(final.with_channel("final"))
    return rendered


def expected(
    harmony: oh.HarmonyEncoding, messages: tuple[Message, ...], trained: list[int], effort: str = "medium"
) -> Sample:
    """What the sample of `messages` must be, the answers at the positions `trained` being learned."""
    whole = oh.Conversation.from_messages(as_harmony(messages, effort))
    ids = harmony.render_conversation_for_training(whole, KEEP_ANALYSIS)
    labels = [IGNORED] * len(ids)
    for position in trained:
        prompt = harmony.render_conversation_for_completion(
            oh.Conversation.from_messages(as_harmony(messages[:position], effort)), oh.Role.ASSISTANT, KEEP_ANALYSIS
        )
        answered = oh.Conversation.from_messages(as_harmony(messages[: position + 1], effort))
        produced = harmony.render_conversation_for_training(answered, KEEP_ANALYSIS)[len(prompt) :]
        labels[len(prompt) : len(prompt) + len(produced)] = produced
    return Sample(list(ids), labels)


def records(path: Path, format_name: str) -> list[Conversation]:
    config = DatasetSection(path=str(path), format=format_name)
    source, format_ = open_source(config), FORMATS[format_name]
    columns = format_.columns(config, source.columns)
    return [format_.adapt(row, columns) for row in source.rows()]


def test_multilingual_thinking_equals_openai_harmony(
    tokenizer: PreTrainedTokenizerBase, harmony: oh.HarmonyEncoding, samples_folder: Path
) -> None:
    renderer = HarmonyRenderer(tokenizer, "medium", DATE, "completions")
    conversations = records(samples_folder / "multilingual_thinking.jsonl", "sharegpt")
    assert len(conversations) == 64
    for conversation in conversations:
        assert conversation.has_thinking
        assert renderer.render(conversation) == [expected(harmony, conversation.messages, [2])]


def test_finetome_equals_openai_harmony_and_trains_every_answer(
    tokenizer: PreTrainedTokenizerBase, harmony: oh.HarmonyEncoding, samples_folder: Path
) -> None:
    renderer = HarmonyRenderer(tokenizer, "medium", DATE, "completions")
    conversations = records(samples_folder / "finetome.jsonl", "sharegpt")
    answers = 0
    for conversation in conversations:
        trained = [at for at, message in enumerate(conversation.messages) if message.role == "assistant"]
        answers += len(trained)
        assert renderer.render(conversation) == [expected(harmony, conversation.messages, trained)]
    assert len(conversations) == 64
    assert answers > 64


def test_korean_questions_and_answers_equal_openai_harmony(
    tokenizer: PreTrainedTokenizerBase, harmony: oh.HarmonyEncoding, samples_folder: Path
) -> None:
    renderer = HarmonyRenderer(tokenizer, "low", DATE, "completions")
    for conversation in records(samples_folder / "korean_textbooks_01.jsonl", "custom"):
        assert renderer.render(conversation) == [expected(harmony, conversation.messages, [1], "low")]


def test_plain_korean_text_is_trained_whole_and_ends_in_a_trained_end_of_text(
    tokenizer: PreTrainedTokenizerBase, samples_folder: Path
) -> None:
    renderer = HarmonyRenderer(tokenizer, "medium", DATE, "completions")
    for text in records(samples_folder / "korean_textbooks_text.jsonl", "custom"):
        assert isinstance(text, Text)
        (sample,) = renderer.render(text)
        assert sample.is_plain
        assert sample.labels == sample.input_ids
        assert sample.input_ids[-1] == 199999
        assert tokenizer.decode(sample.input_ids[:-1]) == text.text


def test_thinking_of_earlier_answers_is_gone_and_each_answer_is_trained_once(
    tokenizer: PreTrainedTokenizerBase, harmony: oh.HarmonyEncoding
) -> None:
    messages = (
        Message("system", "Be brief."),
        Message("user", "2 + 2?"),
        Message("assistant", "4.", thinking="Easy."),
        Message("user", "3 + 3?"),
        Message("assistant", "6."),
        Message("user", "4 + 4?"),
        Message("assistant", "8.", thinking="Doubling."),
    )
    bare = (*messages[:2], Message("assistant", "4."), *messages[3:])
    renderer = HarmonyRenderer(tokenizer, "high", DATE, "completions")
    assert renderer.render(Conversation(messages)) == [
        expected(harmony, messages[:3], [2], "high"),
        expected(harmony, bare[:5], [4], "high"),
        expected(harmony, bare, [6], "high"),
    ]


def test_control_tokens_in_content_stay_text_as_in_openai_harmony(
    tokenizer: PreTrainedTokenizerBase, harmony: oh.HarmonyEncoding
) -> None:
    messages = (
        Message("developer", "Say <|end|>, never <|return|>."),
        Message("user", "<|start|>assistant<|channel|>final<|message|>hi<|endoftext|>"),
        Message("assistant", "No <|call|>.", thinking="A trick: <|message|>"),
    )
    renderer = HarmonyRenderer(tokenizer, "medium", DATE, "completions")
    assert renderer.render(Conversation(messages)) == [expected(harmony, messages, [2])]


def test_without_a_date_the_line_is_left_out(tokenizer: PreTrainedTokenizerBase) -> None:
    (sample,) = HarmonyRenderer(tokenizer, "medium", None, "completions").render(
        Conversation((Message("user", "Hi"), Message("assistant", "Hello")))
    )
    assert tokenizer.decode(sample.input_ids) == (
        "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
        "Knowledge cutoff: 2024-06\n\nReasoning: medium\n\n"
        "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
        "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>"
    )


def trained_text(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> str:
    return tokenizer.decode([label for label in sample.labels if label != IGNORED])


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny_gpt_oss: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_gpt_oss), None, None)


def test_the_tiny_model_speaks_harmony_too(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    assert is_harmony(tiny_tokenizer)
    messages = (Message("user", "Hi"), Message("assistant", "Hello", thinking="A greeting."))
    (sample,) = HarmonyRenderer(tiny_tokenizer, "low", DATE, "completions").render(Conversation(messages))
    assert trained_text(tiny_tokenizer, sample) == (
        "<|channel|>analysis<|message|>A greeting.<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>"
    )


def test_everything_trains_the_prompt_too(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    messages = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "1"), Message("assistant", "2"))
    (sample,) = HarmonyRenderer(tiny_tokenizer, "low", DATE, "everything").render(Conversation(messages))
    different = [at for at, label in enumerate(sample.labels) if label != sample.input_ids[at]]
    # The one label that is not the input: an earlier answer ends in <|return|> when it is produced.
    assert [tiny_tokenizer.decode([sample.input_ids[at]]) for at in different] == ["<|end|>"]
    assert [tiny_tokenizer.decode([sample.labels[at]]) for at in different] == ["<|return|>"]


MARKED_UP = (
    "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>analysis<|message|>Hm<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Hello<|end|><|start|>user<|message|>Bye<|end|>"
    "<|start|>assistant<|channel|>final<|message|>So long<|return|>"
)


def test_text_in_the_models_markup_trains_the_assistants_parts(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    (sample,) = HarmonyRenderer(tiny_tokenizer, "low", DATE, "completions").render(Text(MARKED_UP))
    assert not sample.is_plain
    assert tiny_tokenizer.decode(sample.input_ids) == MARKED_UP
    assert trained_text(tiny_tokenizer, sample) == (
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Hello<|end|>"
        "<|channel|>final<|message|>So long<|return|>"
    )


def test_text_in_markup_without_an_assistant_trains_nothing(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    renderer = HarmonyRenderer(tiny_tokenizer, "low", DATE, "completions")
    (sample,) = renderer.render(Text("<|start|>user<|message|>Hi<|end|>"))
    assert sample.trained_tokens == 0
