"""The samples that a conversation must become, derived from openai-harmony alone and from what a model meets in use.

In use, the model is shown a prompt and says tokens until it stops, at `<|return|>` or `<|call|>`: one utterance. Once
it is asked something new, its earlier thinking is gone from the prompt.
"""

from dataclasses import dataclass
from functools import cache

import openai_harmony as oh
from strategies import Case, Said

from gptoss_ft.data.rendering import IGNORED, Sample

KEEP_ANALYSIS = oh.RenderConversationConfig(auto_drop_analysis=False)
RETURN, CALL = 200002, 200012


@dataclass(frozen=True)
class Utterance:
    """What the model says between a prompt and its stop: the messages [start, end) of what is said."""

    start: int
    end: int
    turn: int
    trained: bool


@dataclass(frozen=True)
class Shown:
    """A conversation for openai-harmony, which asks it for its JSON alone: most of the time would go into writing each
    message's anew."""

    messages: tuple[str, ...]

    def to_json(self) -> str:
        return f'{{"messages": [{", ".join(self.messages)}]}}'


class Reference:
    """openai-harmony's view of one case."""

    def __init__(self, case: Case, harmony: oh.HarmonyEncoding) -> None:
        self.case = case
        self.harmony = harmony
        self._said = [as_harmony(said) for said in case.said]
        self._opening_json = tuple(message.to_json() for message in opening_messages(case))
        self._said_json = [message.to_json() for message in self._said]
        self._for_training = cache(lambda shown: harmony.render_conversation_for_training(shown, KEEP_ANALYSIS))
        self._for_completion = cache(
            lambda shown: harmony.render_conversation_for_completion(shown, oh.Role.ASSISTANT, KEEP_ANALYSIS)
        )

    def utterances(self) -> list[Utterance]:
        """In order; an answer that the model gives after its own thinking is said in one go with it."""
        utterances, start = [], 0
        for position, said in enumerate(self.case.said):
            if said.role != "assistant":
                start = position + 1
            elif said.channel == "final" or said.function:
                utterances.append(Utterance(start, position + 1, said.turn, said.trained))
                start = position + 1
        return utterances

    def turns(self) -> list[int]:
        """The turns that end the samples, one each: those with something to train where there is thinking in the
        conversation, otherwise the last."""
        trained = sorted({said.turn for said in self.case.said if said.trained})
        thinks = any(said.channel == "analysis" for said in self.case.said)
        return trained if thinks or not trained else [self.case.said[-1].turn]

    def samples(self) -> list[tuple[list[int], list[int]]]:
        """input_ids and labels of every sample, from openai-harmony's rendering for training."""
        samples = []
        for index, turn in enumerate(self.turns()):
            ids = self._for_training(self._shown(len(self.case.said), turn))
            labels = [IGNORED] * len(ids)
            for utterance in self.trained_in(index):
                at, produced = len(self._prompt(utterance)), self._produced(utterance)
                labels[at : at + len(produced)] = produced
            samples.append((ids, labels))
        return samples

    def _produced(self, utterance: Utterance) -> list[int]:
        """The utterance's tokens but for `<|start|>assistant`, with which the prompt ends."""
        alone = Shown(tuple(self._said_json[utterance.start : utterance.end]))
        return self._for_training(alone)[len(self._for_completion(Shown(()))) :]

    def _prompt(self, utterance: Utterance) -> list[int]:
        return self._for_completion(self._shown(utterance.start, utterance.turn))

    def trained_in(self, index: int) -> list[Utterance]:
        """The utterances that the sample at `index` trains: those that no sample before it did, up to its turn."""
        before = [-1, *self.turns()][index]
        last = self.turns()[index]
        return [said for said in self.utterances() if said.trained and before < said.turn <= last]

    def _shown(self, end: int, turn: int) -> Shown:
        """The first `end` messages as they are in the given turn: without what follows it, and without the thinking of
        earlier turns."""
        shown = (
            message
            for said, message in zip(self.case.said[:end], self._said_json[:end], strict=True)
            if said.turn == turn or (said.turn < turn and said.channel != "analysis")
        )
        return Shown((*self._opening_json, *shown))

    def check_in_use(self, samples: list[Sample]) -> int:
        """Let the labels speak in the place of the model, and openai-harmony read what they say.

        Returns how many labels were spoken; fails unless each utterance is in its sample after the very prompt, and
        is read as the messages of the conversation.
        """
        spoken = 0
        for index, sample in enumerate(samples):
            labels, ids = sample.labels.tolist(), sample.input_ids.tolist()
            for utterance in self.trained_in(index):
                prompt = self._prompt(utterance)
                assert ids[: len(prompt)] == prompt
                tokens = until_stop(labels[len(prompt) :])
                read = self.harmony.parse_messages_from_completion_tokens(tokens, oh.Role.ASSISTANT)
                assert read == self._said[utterance.start : utterance.end]
                spoken += len(tokens)
        return spoken


def until_stop(labels: list[int]) -> list[int]:
    stop = next(at for at, label in enumerate(labels) if label in (RETURN, CALL))
    return labels[: stop + 1]


def opening_messages(case: Case) -> list[oh.Message]:
    system = oh.SystemContent.new().with_reasoning_effort(oh.ReasoningEffort(case.effort.capitalize()))
    if case.date is not None:
        system = system.with_conversation_start_date(case.date)
    messages = [oh.Message.from_role_and_content(oh.Role.SYSTEM, system)]
    if case.instructions is None and not case.tools:
        return messages
    developer = oh.DeveloperContent(instructions=case.instructions)
    if case.tools:
        developer = developer.with_function_tools([oh.ToolDescription(**tool) for tool in case.tools])
    return [*messages, oh.Message.from_role_and_content(oh.Role.DEVELOPER, developer)]


def as_harmony(said: Said) -> oh.Message:
    if said.role == "user":
        return oh.Message.from_role_and_content(oh.Role.USER, said.text)
    if said.role == "tool":
        author = oh.Author.new(oh.Role.TOOL, f"functions.{said.function}")
        result = oh.Message.from_author_and_content(author, said.text)
        return result.with_recipient("assistant").with_channel("commentary")
    message = oh.Message.from_role_and_content(oh.Role.ASSISTANT, said.text).with_channel(said.channel)
    if not said.function:
        return message
    return message.with_recipient(f"functions.{said.function}").with_content_type("<|constrain|>json")
