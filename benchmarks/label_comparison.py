"""How many tokens each tool trains wrongly on the same conversations, counted against openai-harmony.

    python benchmarks/label_comparison.py --tokenizer DIR --samples DIR

--tokenizer is a folder with the gpt-oss tokenizer, --samples one with multilingual_thinking.jsonl and finetome.jsonl.
Conversations with several turns of thinking and with tool calls are written below. Needs no model and no GPU.

What is right. An answer is what the model produces from one <|start|>assistant of a prompt to the <|return|> or
<|call|> that stops it. Its context is the prompt that the model is shown when it is used: the messages before, without
the thinking of earlier turns, with that of the same turn. The tokens that must be learned are those that
openai-harmony's rendering for training holds after that prompt.

What is counted. A token is learned where a sample of the tool has, after exactly these tokens of context and answer,
the right label. Every trained position that teaches no such token is wrong: `prompt`, a token that the prompt supplies;
`end`, a final answer taught to end in something else than <|return|>; `context`, a token after another context than it
is ever produced in. Tools render in their own ways, so each gets the benefit of the doubt: an answer may also stand in
the prompt that the tool's own chat template makes of the messages before, with that template's header of a tool call
(` json` for ` <|constrain|>json`); of the two references, the one of which more is learned counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from openai_harmony import HarmonyEncoding
    from openai_harmony import Message as HarmonyMessage

    from gptoss_ft.data.conversation import Conversation, Message

REPOSITORY = Path(__file__).resolve().parents[1]
IGNORED = -100
EFFORT: Literal["low", "medium", "high"] = "medium"
USER_PART = "<|start|>user<|message|>"
FINAL_PART = "<|start|>assistant<|channel|>final<|message|>"
ANALYSIS_PART = "<|start|>assistant<|channel|>analysis<|message|>"
ASSISTANT_PART = "<|start|>assistant"


@dataclass(frozen=True)
class Sample:
    """One row as a tool would train it: token ids, and of the same length the labels, -100 where there is none."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Reference:
    """The token ids of an answer's context, and those that the model must produce after it."""

    context: list[int]
    produced: list[int]


@dataclass(frozen=True)
class Tool:
    """A way to make samples of a conversation. `why` says what it trains wrongly; `prompt` gives the token ids of the
    prompt that its own chat template makes for the answer at a position of a conversation, None where it has none."""

    name: str
    why: str
    samples: Callable[[Conversation], list[Sample]]
    prompt: Callable[[Conversation, int], list[int]] | None = None


@dataclass
class Count:
    """Tokens of all answers of a data set: those that must be learned, those that are, and the wrongly trained ones."""

    must: int = 0
    learned: int = 0
    prompt: int = 0
    end: int = 0
    context: int = 0

    @property
    def missing(self) -> int:
        return self.must - self.learned

    @property
    def wrong(self) -> int:
        return self.prompt + self.end + self.context


class Harmony:
    """openai-harmony's renderings of our conversations."""

    def __init__(self, encoding: HarmonyEncoding, day: str) -> None:
        import openai_harmony as oh

        self._oh, self._encoding, self._day = oh, encoding, day
        # The thinking that must go is left out here; by itself openai-harmony drops that of a single turn, too.
        self._keep_analysis = oh.RenderConversationConfig(auto_drop_analysis=False)
        control = "<|start|>assistant<|channel|>final<|end|><|return|>"
        self.start, self.assistant, self.channel, self.final, self.end, self.stop = encoding.encode(
            control, allowed_special="all"
        )

    def reference(self, conversation: Conversation, position: int, call_type: str) -> Reference:
        """The answer at `position`; `call_type` is what the header of a tool call says of its arguments."""
        context = self._opening(conversation)
        turn = max(at for at in range(position) if conversation.messages[at].role == "user")
        for at, message in enumerate(conversation.messages[:position]):
            context += self._messages(message if at > turn else replace(message, thinking=None), call_type)
        answered = context + self._messages(conversation.messages[position], call_type)
        prompt = self._encoding.render_conversation_for_completion(
            self._oh.Conversation.from_messages(context), self._oh.Role.ASSISTANT, self._keep_analysis
        )
        whole = self._encoding.render_conversation_for_training(
            self._oh.Conversation.from_messages(answered), self._keep_analysis
        )
        return Reference(list(prompt), list(whole[len(prompt) :]))

    def _opening(self, conversation: Conversation) -> list[HarmonyMessage]:
        oh = self._oh
        system = oh.SystemContent.new().with_conversation_start_date(self._day)
        system = system.with_reasoning_effort(oh.ReasoningEffort(EFFORT.capitalize()))
        opening = [oh.Message.from_role_and_content(oh.Role.SYSTEM, system)]
        first = conversation.messages[0]
        if first.role in ("system", "developer") or conversation.tools:
            developer = oh.DeveloperContent(instructions=None if first.role == "user" else first.content)
            if conversation.tools:
                developer = developer.with_function_tools(
                    [
                        oh.ToolDescription.new(tool.name, tool.description, tool.parameters)
                        for tool in conversation.tools
                    ]
                )
            opening.append(oh.Message.from_role_and_content(oh.Role.DEVELOPER, developer))
        return opening

    def _messages(self, message: Message, call_type: str) -> list[HarmonyMessage]:
        oh = self._oh
        if message.role in ("system", "developer"):
            return []
        if message.role == "user":
            return [oh.Message.from_role_and_content(oh.Role.USER, message.content)]
        if message.role == "tool":
            author = oh.Author.new(oh.Role.TOOL, f"functions.{message.name}")
            result = oh.Message.from_author_and_content(author, message.content)
            return [result.with_recipient("assistant").with_channel("commentary")]
        spoken = []
        if message.thinking is not None:
            spoken.append(
                oh.Message.from_role_and_content(oh.Role.ASSISTANT, message.thinking).with_channel("analysis")
            )
        for call in message.tool_calls:
            said = oh.Message.from_role_and_content(oh.Role.ASSISTANT, call.arguments).with_channel("commentary")
            spoken.append(said.with_recipient(f"functions.{call.name}").with_content_type(call_type))
        if not message.tool_calls:
            spoken.append(oh.Message.from_role_and_content(oh.Role.ASSISTANT, message.content).with_channel("final"))
        return spoken


def learned_positions(sample: Sample, reference: Reference) -> set[int]:
    """Positions of the answer, counted from its first token, at which the sample has the right label after the right
    tokens."""
    wanted = reference.context + reference.produced
    learned = set()
    for position, token in enumerate(wanted[: len(sample.labels)]):
        if position >= len(reference.context) and sample.labels[position] == token:
            learned.add(position - len(reference.context))
        if sample.input_ids[position] != token:
            break
    return learned


def speakers(sample: Sample, harmony: Harmony) -> list[str]:
    """What each position of a sample belongs to: `prompt`, which is also the opening of an answer, or `answer`, or
    `end`, the last token of a final answer."""
    found, is_assistant, opening, is_final, before = [], False, False, False, None
    for position, token in enumerate(sample.input_ids):
        if token == harmony.start:
            # After a message of its own the assistant opens the next one itself.
            continues = is_assistant and before == harmony.end
            is_assistant = sample.input_ids[position + 1] == harmony.assistant
            opening, is_final = is_assistant and not continues, False
        is_final = is_final or (before == harmony.channel and token == harmony.final)
        if not is_assistant or (opening and harmony.start in (token, before)):
            found.append("prompt")
        else:
            found.append("end" if is_final and token in (harmony.end, harmony.stop) else "answer")
        before = token
    return found


def count_conversation(samples: Sequence[Sample], answers: Sequence[Sequence[Reference]], harmony: Harmony) -> Count:
    """Count the samples of one conversation; `answers` holds the references that each answer may be held to."""
    count = Count()
    right: list[set[int]] = [set() for _ in samples]
    for references in answers:
        found = [[learned_positions(sample, reference) for sample in samples] for reference in references]
        best = max(range(len(references)), key=lambda at: len(set().union(*found[at])))
        count.must += len(references[best].produced)
        count.learned += len(set().union(*found[best]))
        for positions, learned in zip(right, found[best], strict=True):
            positions |= {len(references[best].context) + position for position in learned}
    for sample, positions in zip(samples, right, strict=True):
        wrong = Counter(
            speaker if speaker == "prompt" or (speaker == "end" and label != harmony.stop) else "context"
            for position, (label, speaker) in enumerate(zip(sample.labels, speakers(sample, harmony), strict=True))
            if label != IGNORED and position not in positions
        )
        count.prompt += wrong["prompt"]
        count.end += wrong["end"]
        count.context += wrong["context"]
    return count


def chat(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages as a chat template takes them."""
    messages = []
    for message in conversation.messages:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.thinking is not None:
            entry["thinking"] = message.thinking
        if message.tool_calls:
            entry["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
                for call in message.tool_calls
            ]
        messages.append(entry)
    return messages


def tool_schemas(conversation: Conversation) -> list[dict[str, Any]] | None:
    functions = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        for tool in conversation.tools
    ]
    return [{"type": "function", "function": function} for function in functions] or None


def template_prompt(tokenizer: Any) -> Callable[[Conversation, int], list[int]]:
    """A function that gives the prompt of an answer as the tokenizer's chat template makes it."""

    def prompt(conversation: Conversation, position: int) -> list[int]:
        text = tokenizer.apply_chat_template(
            chat(conversation)[:position], tools=tool_schemas(conversation), tokenize=False, add_generation_prompt=True
        )
        return list(tokenizer(text)["input_ids"])

    return prompt


def trl_tool(tokenizer: Any) -> Tool:
    """SFTTrainer with assistant_only_loss=True, as its tokenization does it (TRL 1.15)."""
    from trl.chat_template_utils import get_training_chat_template

    template = get_training_chat_template(tokenizer)

    def samples(conversation: Conversation) -> list[Sample]:
        row = tokenizer.apply_chat_template(
            chat(conversation), tools=tool_schemas(conversation), chat_template=template,
            return_dict=True, return_assistant_tokens_mask=True,
        )  # fmt: skip
        ids, mask = list(row["input_ids"]), row["assistant_masks"]
        return [Sample(ids, [token if said else IGNORED for token, said in zip(ids, mask, strict=True)])]

    why = (
        "One sample a conversation: earlier answers and tool calls are taught without the thinking before them, "
        "earlier answers to end in `<|end|>`; the `<|start|>assistant` that the prompt supplies is trained, too."
    )
    return Tool("TRL assistant_only_loss", why, samples, template_prompt(tokenizer))


def unsloth_tool(unsloth: Any, tokenizer: Any, name: str, why: str, response_part: str | None) -> Tool:
    """train_on_responses_only with the user's marker and this one, or with markers that it finds itself (None)."""
    label = unsloth.train_on_responses_only(
        None,
        instruction_part=USER_PART if response_part else None,
        response_part=response_part,
        tokenizer=tokenizer,
        return_function=True,
    )

    def samples(conversation: Conversation) -> list[Sample]:
        text = tokenizer.apply_chat_template(chat(conversation), tools=tool_schemas(conversation), tokenize=False)
        ids = list(tokenizer(text)["input_ids"])
        return [Sample(ids, list(label({"input_ids": [ids]})["labels"][0]))]

    return Tool(f"Unsloth {name}", why, samples, template_prompt(tokenizer))


def our_tool(tokenizer: Any, day: str) -> Tool:
    from gptoss_ft.data.conversation import RowError
    from gptoss_ft.data.harmony_rendering import HarmonyRenderer
    from gptoss_ft.data.rendering import Encoder, assemble

    encoder = Encoder(tokenizer)
    renderer = HarmonyRenderer(tokenizer, encoder, EFFORT, day, "completions")

    def samples(conversation: Conversation) -> list[Sample]:
        made = []
        for sample in assemble(renderer.draft(conversation), encoder):
            if isinstance(sample, RowError):
                raise sample
            made.append(Sample(sample.input_ids.tolist(), sample.labels.tolist()))
        return made

    why = "Every answer once, in its context, with the label that ends it."
    return Tool("gptoss_ft", why, samples)


def make_tools(tokenizer_folder: Path, day: str) -> list[Tool]:
    from gptoss_ft import runtime

    runtime.prepare_environment()
    unsloth = runtime.import_unsloth(runtime.find_device("cpu"))
    from transformers import AutoTokenizer
    from unsloth.chat_templates import CHAT_TEMPLATES

    # A tokenizer each: the template is replaced in one, and how control tokens are read in another.
    official, for_unsloth, ours = (AutoTokenizer.from_pretrained(tokenizer_folder) for _ in range(3))
    # That of Unsloth's own upload of the model.
    for_unsloth.chat_template = CHAT_TEMPLATES["gpt-oss"][0]
    return [
        trl_tool(official),
        unsloth_tool(
            unsloth, for_unsloth, "final marker (notebook)",
            "Only the text of final answers: thinking, channels and tool calls are masked; earlier answers are taught "
            "without their thinking and to end in `<|end|>`.",
            FINAL_PART,
        ),
        unsloth_tool(
            unsloth, for_unsloth, "analysis marker",
            "Only the thinking of the last answer; rows without thinking get no label and are dropped, and a data set "
            "without any is refused.",
            ANALYSIS_PART,
        ),
        unsloth_tool(
            unsloth, for_unsloth, "assistant marker",
            "As TRL, without what the prompt supplies, and without the `<|start|>assistant` that the model says itself "
            "between thinking and answer.",
            ASSISTANT_PART,
        ),
        unsloth_tool(
            unsloth, for_unsloth, "markers found by itself",
            "As the final marker, but the end of earlier answers is masked, too.",
            None,
        ),
        our_tool(ours, day),
    ]  # fmt: skip


def read_rows(path: Path) -> list[Conversation]:
    from gptoss_ft.config import DatasetSection
    from gptoss_ft.data.adapters import open_adapter
    from gptoss_ft.data.conversation import Conversation

    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    adapter = open_adapter(DatasetSection(path=str(path)), list(rows[0]))
    records = [adapter.adapt(row) for row in rows]
    return [record for record in records if isinstance(record, Conversation)]


EXCHANGES = (
    ("Which is longer, a mile or a kilometre?", "A mile is 1.609 km.", "A mile, by about 609 metres."),
    ("Und wie viele Meter sind drei Meilen?", "3 × 1609.344 = 4828.032.", "Rund 4828 Meter."),
    ("Write Python that doubles a list.", "A comprehension.", "`def double(xs): return [2 * x for x in xs]`"),
    ("Pourquoi le ciel est-il bleu ?", "Diffusion de Rayleigh, en 1/λ⁴.", "L’air diffuse surtout la lumière bleue."),
    ("이 문장을 한 낱말로 줄여 줘: 비가 아주 많이 온다.", "한 낱말이면 '폭우'.", "폭우"),
    ("What is 17 × 23?", "17 × 20 = 340 and 17 × 3 = 51, so 391.", "391."),
    ("¿Y si le sumo 9?", "391 + 9 = 400.", "400, que es 20 al cuadrado."),
    ("Name a river that crosses three capitals.", "Vienna, Bratislava, Budapest, Belgrade: four.", "The Danube."),
)  # fmt: skip
CITIES = (
    ("Oslo", 3, "Bergen", 7), ("Lisbon", 21, "Porto", 18), ("Kyoto", 11, "Osaka", 14), ("Quito", 15, "Cuenca", 13),
    ("Tartu", -4, "Narva", -6), ("Fez", 27, "Rabat", 23), ("Galway", 9, "Cork", 10), ("Izmir", 19, "Bursa", 16),
)  # fmt: skip


def thinking_conversations() -> list[Conversation]:
    """Three turns each, every answer with its thinking."""
    from gptoss_ft.data.conversation import Conversation, Message

    conversations = []
    for first in range(len(EXCHANGES)):
        messages = [Message("system", "Answer briefly.")]
        for turn in range(3):
            question, thinking, answer = EXCHANGES[(first + turn) % len(EXCHANGES)]
            messages += [Message("user", question), Message("assistant", answer, thinking=thinking)]
        conversations.append(Conversation(tuple(messages)))
    return conversations


def tool_conversations(with_thinking: bool) -> list[Conversation]:
    """A question that takes a call, and in every other one a second question; thinking before each call and answer."""
    from gptoss_ft.data.conversation import Conversation, Message, Tool, ToolCall

    place = {"type": "string", "description": "Name of the city."}
    parameters = {"type": "object", "properties": {"city": place}, "required": ["city"]}
    tools = (Tool("get_temperature", "Temperature of a city now, in degrees Celsius.", parameters),)

    def turn(city: str, degrees: int) -> list[Message]:
        call = ToolCall("get_temperature", json.dumps({"city": city}))
        return [
            Message("user", f"How warm is it in {city}?"),
            Message("assistant", "", f"I need the temperature of {city}." if with_thinking else None, (call,)),
            Message("tool", str(degrees), name="get_temperature"),
            Message("assistant", f"It is {degrees} °C in {city}.", f"{degrees} it is." if with_thinking else None),
        ]

    return [
        Conversation((*turn(city, degrees), *(turn(other, others_degrees) if at % 2 else ())), tools)
        for at, (city, degrees, other, others_degrees) in enumerate(CITIES)
    ]


def compare(
    tools: Sequence[Tool], data: dict[str, list[Conversation]], harmony: Harmony
) -> dict[str, dict[str, Count]]:
    """The count of each tool for each data set, `{data set: {tool: count}}`."""
    results: dict[str, dict[str, Count]] = {}
    for name, conversations in data.items():
        results[name] = {}
        for tool in tools:
            total: Counter[str] = Counter()
            for conversation in conversations:
                answers = [
                    references(conversation, position, tool, harmony)
                    for position, message in enumerate(conversation.messages)
                    if message.role == "assistant"
                ]
                total.update(asdict(count_conversation(tool.samples(conversation), answers, harmony)))
            results[name][tool.name] = Count(**total)
    return results


def references(conversation: Conversation, position: int, tool: Tool, harmony: Harmony) -> list[Reference]:
    """What the answer at `position` may be held to: openai-harmony's, and that of the tool's template."""
    either = [harmony.reference(conversation, position, "<|constrain|>json")]
    if tool.prompt is not None:
        produced = harmony.reference(conversation, position, "json").produced
        either.append(Reference(tool.prompt(conversation, position), produced))
    return either


def table(results: dict[str, dict[str, Count]], tools: Sequence[Tool]) -> str:
    lines = [
        "| data | tool | must be learned | learned | missing | trained wrongly | of it prompt, end, context |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, counts in results.items():
        lines += [
            f"| {name} | {tool} | {count.must:,} | {count.learned:,} | {count.missing:,} | {count.wrong:,} "
            f"| {count.prompt:,}, {count.end:,}, {count.context:,} |"
            for tool, count in counts.items()
        ]
    return "\n".join([*lines, "", *(f"- {tool.name}: {tool.why}" for tool in tools)])


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    samples = os.environ.get("GPTOSS_FT_SAMPLES_DIR")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the gpt-oss tokenizer")
    parser.add_argument("--samples", type=Path, default=samples, help="default: $GPTOSS_FT_SAMPLES_DIR")
    parser.add_argument("--output", type=Path, help="JSON file for the figures (default: $OUT/label_comparison.json)")
    arguments = parser.parse_args(argv)
    if not (arguments.tokenizer / "tokenizer.json").is_file():
        parser.error("--tokenizer: no tokenizer.json there")
    if arguments.samples is None or not (arguments.samples / "finetome.jsonl").is_file():
        parser.error("--samples: no finetome.jsonl there")
    return arguments


def main() -> None:
    # Run as a file, Python looks for modules beside it, not in the folder above.
    sys.path.insert(0, str(REPOSITORY))
    arguments = parse_arguments()
    day = date.today().isoformat()
    tools = make_tools(arguments.tokenizer, day)
    from gptoss_ft.data.harmony_ranks import harmony_encoding

    harmony = Harmony(harmony_encoding(arguments.tokenizer / "tokenizer.json"), day)
    data = {
        "Multilingual-Thinking": read_rows(arguments.samples / "multilingual_thinking.jsonl"),
        "FineTome": read_rows(arguments.samples / "finetome.jsonl"),
        "thinking, 3 turns": thinking_conversations(),
        "thinking, tool calls": tool_conversations(with_thinking=True),
        "tool calls": tool_conversations(with_thinking=False),
    }
    results = compare(tools, data, harmony)
    print(table(results, tools))
    output = arguments.output
    if output is None and os.environ.get("OUT"):
        output = Path(os.environ["OUT"]) / "label_comparison.json"
    if output:
        figures = {
            name: {tool: {**asdict(c), "missing": c.missing, "wrong": c.wrong} for tool, c in counts.items()}
            for name, counts in results.items()
        }
        output.write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
