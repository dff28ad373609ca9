"""Tokens as they come: how long they took, who sees them, and how to stop."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Event
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from gptoss_ft.inference.answers import Answer


@dataclass(frozen=True)
class GenerationStats:
    """Tokens that were generated, the seconds from the first prompt to the last token, and from there to the first."""

    tokens: int
    seconds: float
    first_token_seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class Watcher(BaseStreamer):
    """Sees the tokens as they come: when the first of them did, and what `on_token` does with those of a single
    question. `stop()`, from a signal's handler too, ends the answer after the present token."""

    def __init__(self, on_token: Callable[[int], None] | None = None) -> None:
        self._on_token = on_token
        self._stop = Event()
        self._started = self._first = 0.0
        self._is_prompt = True
        self.criterion = _StopsOn(self._stop)

    def start(self) -> None:
        self._started, self._first = time.monotonic(), 0.0

    def stop(self) -> None:
        self._stop.set()

    @property
    def is_stopped(self) -> bool:
        return self._stop.is_set()

    def put(self, value: torch.Tensor) -> None:
        if self._is_prompt:
            self._is_prompt = False
            return
        self._first = self._first or time.monotonic()
        if self._on_token is not None and value.numel() == 1:
            self._on_token(int(value))

    def end(self) -> None:
        self._is_prompt = True

    def stats(self, answers: Iterable[Answer]) -> GenerationStats:
        now = time.monotonic()
        tokens = sum(answer.new_tokens for answer in answers)
        return GenerationStats(tokens, now - self._started, (self._first or now) - self._started)


class _StopsOn(StoppingCriteria):
    def __init__(self, event: Event) -> None:
        self._event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._event.is_set(), device=input_ids.device)
