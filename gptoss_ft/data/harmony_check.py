"""Whether our harmony is openai-harmony's: conversations rendered by both, and the labels read by its parser."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import openai_harmony as oh
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import JobConfig
from gptoss_ft.data.conversation import Conversation, Effort, Message, RowError
from gptoss_ft.data.entries import Entry
from gptoss_ft.data.harmony_ranks import NotO200k, harmony_encoding
from gptoss_ft.data.harmony_rendering import HarmonyRenderer
from gptoss_ft.data.prepare import make_renderer
from gptoss_ft.data.rendering import IGNORED, Encoder, Ids, Piece, Sample, assemble, split_by_answer

# Past thinking is dropped by our own rule, which `split_by_answer` tells.
KEEP_ANALYSIS = oh.RenderConversationConfig(auto_drop_analysis=False)


def check_rows(job: JobConfig, entry: Entry, tokenizer: PreTrainedTokenizerBase, rows: int) -> int:
    """Compare the samples of the entry's first `rows` rows; rows that cannot be rendered are left out.

    Returns the number of samples compared: 0 where the model is not rendered in harmony, or its vocabulary is not the
    one that openai-harmony has. Raises what `check_against_openai_harmony` does.
    """
    renderer = make_renderer(tokenizer, job, entry.config)
    if not isinstance(renderer, HarmonyRenderer):
        return 0
    try:
        encoding = encoding_of(tokenizer)
    except NotO200k:
        return 0
    return check_against_openai_harmony(_conversations(entry, rows), renderer, renderer.encoder, encoding)


def encoding_of(tokenizer: PreTrainedTokenizerBase) -> oh.HarmonyEncoding:
    """openai-harmony's encoding for this tokenizer. Raises `NotO200k` where its vocabulary is another."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer_json = Path(folder) / "tokenizer.json"
        tokenizer.backend_tokenizer.save(str(tokenizer_json), pretty=False)
        return harmony_encoding(tokenizer_json)


def _conversations(entry: Entry, rows: int) -> Iterator[Conversation]:
    for row in islice(entry.source.rows(), rows):
        if isinstance(row.content, RowError):
            continue
        try:
            record = entry.adapter.adapt(row.content)
        except RowError:
            continue
        if isinstance(record, Conversation):
            yield record


def check_against_openai_harmony(
    conversations: Iterable[Conversation], renderer: HarmonyRenderer, encoder: Encoder, encoding: oh.HarmonyEncoding
) -> int:
    """Compare every sample's token ids with openai-harmony's, and what its parser reads from the labels with the
    answers of the conversation that are trained. A conversation that cannot be rendered is left out.

    Returns the number of samples compared. Raises `RuntimeError` at the first difference: it is a defect of ours.
    """
    # The labels of answers are the same with `everything`, but stand among others.
    renderer = replace(renderer, train_on="completions")
    compared = 0
    for conversation in conversations:
        try:
            drafts = renderer.draft(conversation)
        except RowError:
            continue
        pieces, samples = split_by_answer(conversation), assemble(drafts, encoder)
        opening = _opening(conversation, conversation.effort or renderer.effort, renderer.date)
        for piece, sample in zip(pieces, samples, strict=True):
            if isinstance(sample, RowError):
                raise RuntimeError(f"harmony rendering refuses its own draft: {sample}")
            _check_tokens(sample, piece, opening, encoding)
            _check_labels(sample, piece, encoding)
            compared += 1
    return compared


def _check_tokens(sample: Sample, piece: Piece, opening: list[oh.Message], encoding: oh.HarmonyEncoding) -> None:
    leads = piece.messages[0].role in ("system", "developer")
    said = [spoken for message in piece.messages[leads:] for spoken in _messages(message)]
    conversation = oh.Conversation.from_messages([*opening, *said])
    theirs = np.array(encoding.render_conversation_for_training(conversation, KEEP_ANALYSIS), np.int32)
    if np.array_equal(sample.input_ids, theirs):
        return
    shorter = min(len(theirs), len(sample.input_ids))
    unequal = np.flatnonzero(sample.input_ids[:shorter] != theirs[:shorter])
    at = int(unequal[0]) if unequal.size else shorter
    ours, wanted = (encoding.decode(ids[max(0, at - 10) : at + 10].tolist()) for ids in (sample.input_ids, theirs))
    raise RuntimeError(f"token {at} differs from openai-harmony's: {ours!r}, wanted {wanted!r}")


def _check_labels(sample: Sample, piece: Piece, encoding: oh.HarmonyEncoding) -> None:
    wanted = [spoken for at in sorted(piece.trained) for spoken in _messages(piece.messages[at])]
    read: list[oh.Message] = []
    for answer in _answers(sample.labels, encoding):
        try:
            read += encoding.parse_messages_from_completion_tokens(answer, oh.Role.ASSISTANT)
        except oh.HarmonyError as error:
            raise RuntimeError(f"openai-harmony cannot read the labels {encoding.decode(answer)!r}: {error}") from error
    if read != wanted:
        raise RuntimeError(
            f"openai-harmony reads {_words(read)} from the labels, where the conversation has {_words(wanted)}"
        )


def _answers(labels: Ids, encoding: oh.HarmonyEncoding) -> Iterator[list[int]]:
    """The trained labels, divided after each token at which generation stops."""
    trained = labels[labels != IGNORED]
    stops = np.flatnonzero(np.isin(trained, encoding.stop_tokens_for_assistant_actions()))
    yield from (answer.tolist() for answer in np.split(trained, stops + 1) if answer.size)


def _words(messages: list[oh.Message]) -> str:
    return ", ".join(message.to_json() for message in messages) or "nothing"


def _opening(conversation: Conversation, effort: Effort, date: str | None) -> list[oh.Message]:
    """The system message, and the developer message if there is one."""
    system = oh.SystemContent.new().with_reasoning_effort(oh.ReasoningEffort(effort.capitalize()))
    if date is not None:
        system = system.with_conversation_start_date(date)
    opening = [oh.Message.from_role_and_content(oh.Role.SYSTEM, system)]
    first = conversation.messages[0]
    developer = oh.DeveloperContent(instructions=first.content if first.role in ("system", "developer") else None)
    tools = [
        oh.ToolDescription.new(tool.name, tool.description, None if tool.parameters is None else dict(tool.parameters))
        for tool in conversation.tools
    ]
    if tools:
        developer = developer.with_function_tools(tools)
    if tools or developer.instructions is not None:
        opening.append(oh.Message.from_role_and_content(oh.Role.DEVELOPER, developer))
    return opening


def _messages(message: Message) -> list[oh.Message]:
    """The harmony messages that a message of the user, a tool or the assistant is."""
    if message.role == "user":
        return [oh.Message.from_role_and_content(oh.Role.USER, message.content)]
    if message.role == "tool":
        result = oh.Message.from_author_and_content(
            oh.Author.new(oh.Role.TOOL, f"functions.{message.name}"), message.content
        )
        return [result.with_recipient("assistant").with_channel("commentary")]
    spoken = [] if message.thinking is None else [_spoken(message.thinking, "analysis")]
    if message.content or not message.tool_calls:
        spoken.append(_spoken(message.content, "commentary" if message.tool_calls else "final"))
    for call in message.tool_calls:
        called = _spoken(call.arguments, "commentary").with_recipient(f"functions.{call.name}")
        spoken.append(called.with_content_type("<|constrain|>json"))
    return spoken


def _spoken(text: str, channel: str) -> oh.Message:
    return oh.Message.from_role_and_content(oh.Role.ASSISTANT, text).with_channel(channel)
