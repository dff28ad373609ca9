"""What became of the rows, in numbers: summary.json, beside the samples that it counts."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

# Told how many rows have been read and how many samples made of them.
Progress = Callable[[int, int], None]

# Part of the caches' keys: raised whenever the same row would become other samples.
RENDERING_VERSION = 1
# Rows named for each reason that rows were left out for.
EXAMPLES = 5


class Counts(BaseModel):
    """What all summaries share: no unknown keys, so that another version's file is not half understood."""

    model_config = ConfigDict(extra="forbid")


class SourceSummary(Counts):
    """One entry of the data set.

    Every one of its `rows` is either among `kept` (at least one of its samples is trained or evaluated on) or counted
    once in `dropped`, by reason; `examples` names the first of those rows. `dropped_samples` counts samples, those of
    kept rows too. Of the samples that `dataset.on_too_long: truncate` shortened (`truncated`), `cut_answers` are the
    answers that lost their end and so are not trained.
    """

    description: str
    fingerprint: str
    rows: int = 0
    kept: int = 0
    dropped: Counter[str] = Field(default_factory=Counter)
    examples: dict[str, list[str]] = Field(default_factory=dict)
    dropped_samples: Counter[str] = Field(default_factory=Counter)
    truncated: int = 0
    cut_answers: int = 0

    def drop(self, reason: str, example: str) -> None:
        self.dropped[reason] += 1
        named = self.examples.setdefault(reason, [])
        if len(named) < EXAMPLES:
            # The name of a file may hold bytes that are no text.
            named.append(example.encode(errors="backslashreplace").decode())


class SplitSummary(Counts):
    """The samples that are trained on, or evaluated on: how many, from how many distinct rows, their tokens, those of
    them that are trained, in all and by channel, and samples by reasoning effort and by length in tokens.
    `plain_texts` are samples without any markup, which are trained whole."""

    samples: int = 0
    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    plain_texts: int = 0
    channels: Counter[str] = Field(default_factory=Counter)
    efforts: Counter[str] = Field(default_factory=Counter)
    lengths: Counter[int] = Field(default_factory=Counter)


class Summary(Counts):
    """Everything about prepared data. `fingerprint` is a SHA-256 over every token and label in order, `key` one over
    all that they were made from, `tokenizer` one over the tokenizer. `rendered_lengths` counts the samples with a
    trained token by length, before those that are too long were left out."""

    key: str
    tokenizer: str
    max_seq_length: int
    sources: list[SourceSummary] = Field(default_factory=list)
    rendered_lengths: Counter[int] = Field(default_factory=Counter)
    train: SplitSummary = Field(default_factory=SplitSummary)
    eval: SplitSummary = Field(default_factory=SplitSummary)
    fingerprint: str = ""

    @property
    def rows(self) -> int:
        return sum(source.rows for source in self.sources)

    @property
    def dropped(self) -> Counter[str]:
        """Rows left out, by reason, over all sources."""
        return sum((source.dropped for source in self.sources), Counter[str]())

    @property
    def description(self) -> str:
        return "; ".join(source.description for source in self.sources)

    def as_facts(self) -> dict[str, Any]:
        """The facts for the manifest: everything but the lengths, and the fingerprint under the name `sha256`."""
        facts = self.model_dump(mode="json", exclude={"rendered_lengths", "fingerprint"})
        for split in ("train", "eval"):
            del facts[split]["lengths"]
        return {"rows": self.rows, "samples": self.train.samples, "sha256": self.fingerprint, **facts}

    def length_that_keeps(self, share: float) -> int:
        """The `max_seq_length` that would keep this share of the rendered samples, in tokens."""
        return quantile(self.rendered_lengths, share)


def quantile(lengths: Counter[int], share: float) -> int:
    """The smallest length that at least this share of the samples does not exceed; 0 where there is none."""
    needed, reached = share * lengths.total(), 0
    for length in sorted(lengths):
        reached += lengths[length]
        if reached >= needed - 1e-9:
            return length
    return max(lengths, default=0)


def count(values: Iterable[int] | NDArray[np.int64]) -> Counter[int]:
    """How often each value occurs, as plain integers."""
    different, times = np.unique(np.fromiter(values, np.int64), return_counts=True)
    return Counter(dict(zip(different.tolist(), times.tolist(), strict=True)))
