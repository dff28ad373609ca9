"""Answers from a model in memory: prompts as training saw them, left-padded batches, the tokens at which it stops.

Imported after Unsloth, whose `generate` is called.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteriaList

from gptoss_ft.config import JobConfig
from gptoss_ft.data.conversation import RowError
from gptoss_ft.data.harmony_rendering import HarmonyRenderer, is_harmony
from gptoss_ft.data.prepare import Renderer, make_renderer
from gptoss_ft.errors import DataError, MachineError, SettingError
from gptoss_ft.inference.answers import Answer, AnswerReader, Stop
from gptoss_ft.inference.prompts import Question
from gptoss_ft.inference.watching import GenerationStats, Watcher

# Tokens at which a turn of harmony ends, and the one that ends any text.
HARMONY_STOPS: dict[str, Stop] = {"<|return|>": "return", "<|call|>": "call", "<|endoftext|>": "end"}

Prompt = list[int]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: at temperature 0 the likeliest, otherwise at random by `seed` among the likeliest
    of the total share `top_p`. A batch of the same prompts with the same seed gives the same answers."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 1024
    seed: int = 3407


@dataclass(frozen=True)
class Generator:
    """A model that answers. `stops` are the ids that end an answer, `limit` is the most tokens of prompt and answer."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    renderer: Renderer
    reader: AnswerReader
    stops: dict[int, Stop]
    limit: int

    @property
    def ends(self) -> frozenset[int]:
        """The stops that belong to no message of the model's format."""
        return frozenset(token for token, stop in self.stops.items() if stop == "end")

    def prompt(self, question: Question) -> Prompt:
        """The question's ids, through what opens the answer. Raises `DataError` for one that cannot be rendered."""
        try:
            return [int(token) for token in self.renderer.prompt(question.conversation)]
        except RowError as error:
            raise DataError(f"{question.place}: {error}") from None

    def answer(
        self,
        questions: Sequence[Question],
        sampling: Sampling,
        batch_size: int = 8,
        watch: Watcher | None = None,
        progress: Callable[[int, GenerationStats], None] | None = None,
        so_far: dict[int, Answer] | None = None,
    ) -> tuple[list[Answer], GenerationStats]:
        """The answers in the order of the questions, which are answered `batch_size` at once, the longest first.

        `so_far` gets each answer by its question's position as it comes. `watch` sees the tokens of a single question
        as they come, and can end all of it; `progress` is told after each batch how many are answered. Raises
        `SettingError` where a prompt and its answer are too long for the model, `MachineError` when the GPU's memory
        runs out.
        """
        watch = watch or Watcher()
        prompts = [self.prompt(question) for question in questions]
        for question, prompt in zip(questions, prompts, strict=True):
            self._refuse_too_long(question, len(prompt), sampling)
        # The longest first: what does not fit in memory does not fit at once.
        order = sorted(range(len(prompts)), key=lambda at: -len(prompts[at]))
        answers: dict[int, Answer] = {} if so_far is None else so_far
        with _seeded(sampling.seed):
            watch.start()
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                for at, tokens in zip(
                    batch, self._generate([prompts[at] for at in batch], sampling, watch), strict=True
                ):
                    answers[at] = self._read(tokens, len(prompts[at]), watch)
                if progress is not None:
                    progress(len(answers), watch.stats(answers.values()))
        stats = watch.stats(answers.values())
        return [answers[at] for at in range(len(prompts))], stats

    def _refuse_too_long(self, question: Question, length: int, sampling: Sampling) -> None:
        if length + sampling.max_new_tokens > self.limit:
            raise SettingError(
                f"{question.place}: {length:,} tokens and {sampling.max_new_tokens:,} new ones are more than the "
                f"{self.limit:,} that the model takes",
                "Ask for fewer with --max-new-tokens (evaluation.max_new_tokens), or shorten the prompt.",
            )

    def _generate(self, prompts: Sequence[Prompt], sampling: Sampling, watch: Watcher) -> list[list[int]]:
        """New ids of each prompt, through the one that stopped it."""
        from unsloth import FastLanguageModel

        FastLanguageModel.for_inference(self.model)
        width, device = max(map(len, prompts)), self.model.device
        padded = [[self._pad] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        try:
            made = self.model.generate(
                input_ids=torch.tensor(padded, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=self._config(sampling),
                streamer=watch,
                stopping_criteria=StoppingCriteriaList([watch.criterion]),
            )
        except torch.OutOfMemoryError as error:
            raise MachineError(
                f"the GPU's memory ran out while answering: {str(error).splitlines()[0]}",
                "Lower --batch-size or --max-new-tokens; for the questions of a run set RUN_EVALUATION=false, or lower "
                "evaluation.max_new_tokens.",
            ) from None
        return [self._through_stop(row) for row in made[:, width:].tolist()]

    def _through_stop(self, tokens: list[int]) -> list[int]:
        ends = (at for at, token in enumerate(tokens) if token in self.stops)
        return tokens[: next(ends, len(tokens)) + 1]

    def _read(self, tokens: list[int], prompt_tokens: int, watch: Watcher) -> Answer:
        stop: Stop = "interrupted" if watch.is_stopped else "length"
        if tokens and tokens[-1] in self.stops:
            stop = self.stops[tokens[-1]]
        return self.reader.read(tokens, prompt_tokens, stop)

    @property
    def _pad(self) -> int:
        return int(next(iter(self.stops)) if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id)

    def _config(self, sampling: Sampling) -> GenerationConfig:
        """All that decides, so that nothing of the model's own generation_config.json does."""
        samples = sampling.temperature > 0
        return GenerationConfig(  # type: ignore[no-untyped-call]  # transformers does not type it
            max_new_tokens=sampling.max_new_tokens,
            do_sample=samples,
            temperature=sampling.temperature if samples else 1.0,
            top_p=sampling.top_p if samples else 1.0,
            # Left out, it is 50, which transformers also wants where nothing is drawn.
            top_k=0 if samples else 50,
            eos_token_id=list(self.stops),
            pad_token_id=self._pad,
        )


def make_generator(model: Any, tokenizer: PreTrainedTokenizerBase, job: JobConfig) -> Generator:
    """A generator whose prompts are rendered as the job's first data set is."""
    renderer = make_renderer(tokenizer, job, job.datasets[0])
    return Generator(
        model=model,
        tokenizer=tokenizer,
        renderer=renderer,
        reader=AnswerReader(tokenizer, isinstance(renderer, HarmonyRenderer)),
        stops=_stops(model, tokenizer, renderer),
        limit=int(model.config.max_position_embeddings),
    )


def _stops(model: Any, tokenizer: PreTrainedTokenizerBase, renderer: Renderer) -> dict[int, Stop]:
    if is_harmony(tokenizer):
        vocabulary = tokenizer.get_vocab()
        return {vocabulary[name]: stop for name, stop in HARMONY_STOPS.items()}
    own = model.generation_config.eos_token_id
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    if not isinstance(renderer, HarmonyRenderer):
        # What training teaches to end with, whatever the model's files say.
        ids.append(renderer.end_of_turn)
    return {int(token): "end" for token in ids if token is not None}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw by `seed`, and leave the generators as they were: training goes on from them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
