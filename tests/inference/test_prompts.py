"""Prompts: what is read from files, and that a prompt is what training showed before the answer."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import openai_harmony as oh
import pytest
from transformers import PreTrainedTokenizerBase

from gptoss_ft import runtime, tiny
from gptoss_ft.config import DatasetSection
from gptoss_ft.data.adapters import open_adapter
from gptoss_ft.data.conversation import Conversation, Message, RowError, Tool, ToolCall
from gptoss_ft.data.harmony_ranks import harmony_encoding
from gptoss_ft.data.harmony_rendering import HarmonyRenderer
from gptoss_ft.data.rendering import IGNORED, Encoder, Sample, assemble, split_by_answer
from gptoss_ft.data.template_rendering import TemplateRenderer
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import DataError
from gptoss_ft.inference.prompts import ask, check_asks, read_batch, read_messages_file

DATE = "2025-06-01"
KEEP_ANALYSIS = oh.RenderConversationConfig(auto_drop_analysis=False)
WEATHER = Tool("weather", "Tells it.", {"type": "object", "properties": {"place": {"type": "string"}}})
CALL = ToolCall("weather", '{"place": "Ulm"}')
TOOL_LOOP = Conversation(
    (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello", "They greet."),
        Message("user", "Weather in Ulm?"),
        Message("assistant", "I look.", "Ask the tool.", (CALL,)),
        Message("tool", '{"sun": true}', name="weather"),
    ),
    (WEATHER,),
)


def conversations(name: str) -> list[Conversation]:
    path = tiny.materialize(name, runtime.cache_folder())
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    adapter = open_adapter(DatasetSection(path=name), list(rows[0]))
    records = [adapter.adapt(row) for row in rows]
    assert all(isinstance(record, Conversation) for record in records)
    return [record for record in records if isinstance(record, Conversation)]


def harmony_renderer(tokenizer: PreTrainedTokenizerBase) -> HarmonyRenderer:
    return HarmonyRenderer(tokenizer, Encoder(tokenizer), "medium", DATE, "completions")


def template_renderer(tokenizer: PreTrainedTokenizerBase) -> TemplateRenderer:
    return TemplateRenderer(tokenizer, Encoder(tokenizer), "medium", DATE, "completions")


Make = Callable[[PreTrainedTokenizerBase], HarmonyRenderer | TemplateRenderer]


@pytest.mark.parametrize(
    ("model", "make", "data"),
    [
        ("tiny/gpt-oss", harmony_renderer, "tiny/multilingual-thinking"),
        ("tiny/gpt-oss", harmony_renderer, "tiny/finetome"),
        ("tiny/llama", template_renderer, "tiny/finetome"),
    ],
)
def test_a_prompt_is_what_training_showed_before_each_answer(model: str, make: Make, data: str) -> None:
    folder = tiny.materialize(model, runtime.cache_folder())
    renderer = make(load_tokenizer(str(folder), None, None))
    compared = 0
    for conversation in conversations(data):
        samples = assemble(renderer.draft(conversation), renderer.encoder)
        for piece, sample in zip(split_by_answer(conversation), samples, strict=True):
            assert isinstance(sample, Sample)
            ids, labels = sample.input_ids.tolist(), sample.labels.tolist()
            answers = [at for at, label in enumerate(labels) if label != IGNORED and labels[at - 1] == IGNORED]
            for at, start in zip(sorted(piece.trained), answers, strict=True):
                prompt = renderer.prompt(replace(conversation, messages=conversation.messages[:at]))
                assert prompt.tolist() == ids[:start]
                compared += 1
    assert compared >= 144


def test_thinking_is_shown_within_a_turn_alone(tiny_gpt_oss: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_gpt_oss), None, None)
    shown = tokenizer.decode(harmony_renderer(tokenizer).prompt(TOOL_LOOP).tolist())
    assert "They greet." not in shown
    assert "<|channel|>analysis<|message|>Ask the tool.<|end|>" in shown
    assert shown.endswith('to=assistant<|channel|>commentary<|message|>{"sun": true}<|end|><|start|>assistant')
    assert "Reasoning: high" in tokenizer.decode(
        harmony_renderer(tokenizer).prompt(replace(TOOL_LOOP, effort="high")).tolist()
    )


def test_a_harmony_prompt_is_openai_harmonys(real_tokenizer_folder: Path) -> None:
    renderer = harmony_renderer(load_tokenizer(str(real_tokenizer_folder), None, None))
    encoding = harmony_encoding(real_tokenizer_folder / "tokenizer.json")
    asked = [
        replace(conversation, messages=conversation.messages[:-1])
        for name in ("tiny/multilingual-thinking", "tiny/finetome")
        for conversation in conversations(name)
    ]
    for conversation in [*asked, TOOL_LOOP]:
        theirs = encoding.render_conversation_for_completion(as_harmony(conversation), oh.Role.ASSISTANT, KEEP_ANALYSIS)
        assert renderer.prompt(conversation).tolist() == theirs


def as_harmony(conversation: Conversation) -> oh.Conversation:
    system = oh.SystemContent.new().with_reasoning_effort(oh.ReasoningEffort.MEDIUM)
    said = [oh.Message.from_role_and_content(oh.Role.SYSTEM, system.with_conversation_start_date(DATE))]
    messages = conversation.messages
    last = max(at for at, message in enumerate(messages) if message.role == "user")
    leads = messages[0].role in ("system", "developer")
    if leads or conversation.tools:
        developer = oh.DeveloperContent(instructions=messages[0].content if leads else None)
        tools = [
            oh.ToolDescription.new(tool.name, tool.description, dict(tool.parameters or {}))
            for tool in conversation.tools
        ]
        developer = developer.with_function_tools(tools) if tools else developer
        said.append(oh.Message.from_role_and_content(oh.Role.DEVELOPER, developer))
    for at, message in enumerate(messages[leads:], start=int(leads)):
        if message.role == "user":
            said.append(oh.Message.from_role_and_content(oh.Role.USER, message.content))
        elif message.role == "tool":
            author = oh.Author.new(oh.Role.TOOL, f"functions.{message.name}")
            result = oh.Message.from_author_and_content(author, message.content)
            said.append(result.with_recipient("assistant").with_channel("commentary"))
        else:
            if message.thinking is not None and at > last:
                said.append(spoken(message.thinking, "analysis"))
            said.append(spoken(message.content, "commentary" if message.tool_calls else "final"))
            for call in message.tool_calls:
                called = spoken(call.arguments, "commentary").with_recipient(f"functions.{call.name}")
                said.append(called.with_content_type("<|constrain|>json"))
    return oh.Conversation.from_messages(said)


def spoken(text: str, channel: str) -> oh.Message:
    return oh.Message.from_role_and_content(oh.Role.ASSISTANT, text).with_channel(channel)


def test_a_templates_prompt_is_transformers_own(tiny_llama: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_llama), None, None)
    renderer = template_renderer(tokenizer)
    for conversation in conversations("tiny/finetome"):
        asked = conversation.messages[:-1]
        theirs = tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in asked],
            add_generation_prompt=True,
            return_dict=False,
        )
        assert renderer.prompt(Conversation(asked)).tolist() == theirs


def test_a_control_token_in_a_prompt_is_words(tiny_gpt_oss: Path, tiny_llama: Path) -> None:
    for folder, make, token in [
        (tiny_gpt_oss, harmony_renderer, "<|end|>"),
        (tiny_llama, template_renderer, "<|im_end|>"),
    ]:
        tokenizer = load_tokenizer(str(folder), None, None)
        make_renderer = make(tokenizer)
        id_ = tokenizer.convert_tokens_to_ids(token)
        plain, typed = (
            make_renderer.prompt(Conversation((Message("user", text),))).tolist() for text in ("x", f"x{token}")
        )
        assert typed.count(id_) == plain.count(id_)


def test_files_of_messages_and_batches(tmp_path: Path) -> None:
    file = tmp_path / "messages.json"
    messages = [{"role": "user", "content": "Hi"}]
    file.write_text(json.dumps(messages))
    assert read_messages_file(file).conversation == Conversation((Message("user", "Hi"),))
    tool = {"type": "function", "function": {"name": "weather", "description": "Tells it."}}
    file.write_text(json.dumps({"messages": messages, "tools": [tool]}))
    question = read_messages_file(file, "Be brief.")
    assert question.conversation.messages == (Message("system", "Be brief."), Message("user", "Hi"))
    assert question.conversation.tools == (Tool("weather", "Tells it."),)

    batch = tmp_path / "batch.jsonl"
    own = {"messages": [{"role": "system", "content": "Mine."}, *messages]}
    batch.write_text(json.dumps({"prompt": "Why\u2028?", "id": 7}, ensure_ascii=False) + "\n\n" + json.dumps(own))
    first, second = read_batch(batch, "Be brief.")
    assert first.given == {"prompt": "Why\u2028?", "id": 7}
    assert first.conversation.messages[1] == Message("user", "Why\u2028?")
    assert second.conversation.messages[0] == Message("system", "Mine.")
    assert second.place == f"{batch}:3"
    assert ask("Hi").conversation.messages == (Message("user", "Hi"),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is list, wanted an object"),
        ('{"id": 1}', "wanted either prompt or messages"),
        ('{"prompt": "a", "messages": []}', "wanted either prompt or messages"),
        ('{"prompt": 1}', "prompt is int, wanted a string"),
        ('{"prompt": "a", "reasoning_effort": "max"}', "reasoning_effort is 'max', wanted low, medium or high"),
        ('{"messages": [{"role": "cat", "content": "a"}]}', "message 1: unknown role 'cat'"),
        ('{"messages": []}', "holds no message"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            "nothing to answer",
        ),
        ('{"messages": [{"role": "system", "content": "a"}]}', "where the user's is due"),
    ],
)
def test_a_mistake_in_a_batch_names_its_line(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "batch.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(DataError) as caught:
        read_batch(file)
    assert caught.value.message.startswith(f"{file}:2: ")
    assert message in caught.value.message


def test_all_mistakes_of_a_batch_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "batch.jsonl"
    file.write_text('{"prompt": "fine"}\n' + "no\n[1]\n" + '{"prompt": 1}\n' * 9)
    with pytest.raises(DataError) as caught:
        read_batch(file)
    lines = caught.value.message.splitlines()
    assert [line.split(":")[1] for line in lines[:-1]] == [str(number) for number in range(2, 12)]
    assert (lines[0].count("is not JSON"), lines[1].count("is list"), lines[-1]) == (1, 1, "and 1 more")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing.json cannot be read: No such file"):
        read_messages_file(tmp_path / "nothing.json")
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(DataError, match="is not UTF-8"):
        read_messages_file(tmp_path / "latin.json")
    (tmp_path / "broken.json").write_text('[\n{"role": }]')
    with pytest.raises(DataError, match=r"broken.json:2: is not JSON"):
        read_messages_file(tmp_path / "broken.json")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no prompt"):
        read_batch(tmp_path / "empty.jsonl")


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="the prompt is empty"):
        ask(" \n")


def test_a_call_without_its_result_cannot_be_answered() -> None:
    with pytest.raises(RowError, match="a tool call that has no result"):
        check_asks(TOOL_LOOP.messages[:-1])
    check_asks(TOOL_LOOP.messages)
