"""Rendering in OpenAI's harmony format, for gpt-oss and whatever else holds its control tokens."""

from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from gptoss_ft.data.conversation import Message, Record, Text
from gptoss_ft.data.rendering import IGNORED, Piece, Sample, TrainOn, encode, split_by_answer

CONTROL_TOKENS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>", "<|endoftext|>")


def is_harmony(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the model speaks OpenAI's harmony format: its tokenizer holds the format's control tokens."""
    vocabulary = tokenizer.get_vocab()
    return all(token in vocabulary for token in CONTROL_TOKENS)


@dataclass
class HarmonyRenderer:
    """Renders as openai-harmony does, with the model's own tokenizer (any vocabulary with the control tokens).

    The words of the system message are the format's own (openai-harmony 0.0.8). `date` is a literal for its date
    line, so that tokens do not change with the day; None leaves the line out, as openai-harmony does.
    """

    tokenizer: PreTrainedTokenizerBase
    effort: str
    date: str | None
    train_on: TrainOn

    def render(self, record: Record) -> list[Sample]:
        if isinstance(record, Text):
            return [self._render_text(record.text)]
        return [self._render_piece(piece) for piece in split_by_answer(record)]

    def _render_piece(self, piece: Piece) -> Sample:
        sample = Sample()
        everything = self.train_on == "everything"
        sample.add([*self._header("system"), *self._literal(self._system_text), self._end], everything)
        for position, message in enumerate(piece.messages):
            if message.role == "assistant":
                is_last = position == len(piece.messages) - 1
                self._add_answer(sample, message, is_last, trained=everything or position in piece.trained)
            elif message.role == "user":
                sample.add([*self._header("user"), *self._literal(message.content), self._end], everything)
            else:
                text = f"# Instructions\n\n{message.content}"
                sample.add([*self._header("developer"), *self._literal(text), self._end], everything)
        return sample

    def _add_answer(self, sample: Sample, message: Message, is_last: bool, trained: bool) -> None:
        # <|start|>assistant is given by the generation prompt; after the analysis the model says it itself.
        opening = [self._id("<|start|>"), *self._literal("assistant")]
        sample.add(opening, self.train_on == "everything")
        if message.thinking is not None:
            sample.add([*self._channel("analysis"), *self._literal(message.thinking), self._end, *opening], trained)
        sample.add([*self._channel("final"), *self._literal(message.content)], trained)
        done = self._id("<|return|>")
        sample.add_terminator(done if is_last else self._end, done, trained)

    def _render_text(self, text: str) -> Sample:
        ids = self._live(text)
        sample = Sample()
        if self._id("<|start|>") not in ids:
            sample.add([*ids, self._id("<|endoftext|>")], True)
            sample.is_plain = True
        elif self.train_on == "everything":
            sample.add(ids, True)
        else:
            sample.input_ids = ids
            sample.labels = self._assistant_labels(ids)
        return sample

    def _assistant_labels(self, ids: list[int]) -> list[int]:
        """Labels of text in the model's own markup: what follows <|start|>assistant is the model's, and so is
        that opening itself where the message before it was the assistant's too."""
        opening = [self._id("<|start|>"), *self._literal("assistant")]
        terminators = {self._id(name) for name in ("<|end|>", "<|return|>", "<|call|>")}
        labels = [IGNORED] * len(ids)
        position, continues = 0, False
        while position < len(ids):
            if ids[position] != opening[0]:
                position, continues = position + 1, False
                continue
            end = next((at for at in range(position + 1, len(ids)) if ids[at] in terminators), len(ids) - 1)
            is_assistant = ids[position : position + len(opening)] == opening
            if is_assistant:
                start = position if continues else position + len(opening)
                labels[start : end + 1] = ids[start : end + 1]
            position, continues = end + 1, is_assistant
        return labels

    @cached_property
    def _system_text(self) -> str:
        lines = ["You are ChatGPT, a large language model trained by OpenAI.", "Knowledge cutoff: 2024-06"]
        if self.date is not None:
            lines.append(f"Current date: {self.date}")
        lines += ["", f"Reasoning: {self.effort}", ""]
        lines.append("# Valid channels: analysis, commentary, final. Channel must be included for every message.")
        return "\n".join(lines)

    @cached_property
    def _control_ids(self) -> dict[str, int]:
        # get_vocab() builds a dict of all 200,019 tokens: once, not for each token.
        vocabulary = self.tokenizer.get_vocab()
        return {name: vocabulary[name] for name in CONTROL_TOKENS}

    def _header(self, role: str) -> list[int]:
        return [self._id("<|start|>"), *self._literal(role), self._id("<|message|>")]

    def _channel(self, name: str) -> list[int]:
        return [self._id("<|channel|>"), *self._literal(name), self._id("<|message|>")]

    @property
    def _end(self) -> int:
        return self._id("<|end|>")

    def _id(self, control_token: str) -> int:
        return self._control_ids[control_token]

    def _literal(self, text: str) -> list[int]:
        """Token ids of content: a control token typed in it stays text."""
        return encode(self.tokenizer, text, live=False)

    def _live(self, text: str) -> list[int]:
        """Token ids of text whose control tokens are meant."""
        return encode(self.tokenizer, text, live=True)
