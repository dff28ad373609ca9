"""A source's rows → the tokenized data set that training sees, with a count of everything that was left out."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import DatasetSection, JobConfig
from gptoss_ft.data.adapters import FORMATS
from gptoss_ft.data.conversation import Record, RowError
from gptoss_ft.data.harmony_rendering import HarmonyRenderer, is_harmony
from gptoss_ft.data.rendering import Renderer, Sample
from gptoss_ft.data.sources import RowSource
from gptoss_ft.data.template_rendering import TemplateRenderer
from gptoss_ft.errors import DataError

# int32 holds every token id and the ignored label, at half of int64's size.
SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
SAMPLES_PER_BATCH = 1024


@dataclass
class Tally:
    """What became of the source's rows: `rows` read, samples that are plain text (`texts`), samples `dropped` by
    reason, the length of every rendered sample, and the tokens of the kept ones."""

    rows: int = 0
    texts: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    tokens: int = 0
    trained_tokens: int = 0

    def length_that_keeps(self, share: float) -> int:
        """The `max_seq_length` that would keep this share of the samples, in tokens."""
        return int(np.quantile(self.lengths, share, method="higher"))


@dataclass(frozen=True)
class TokenizedDataset:
    """Samples as rows of `input_ids` and `labels` (int32), where they came from, and a SHA-256 over every token
    and label in order."""

    samples: Dataset
    source: RowSource
    tally: Tally
    fingerprint: str

    def as_json(self) -> dict[str, Any]:
        """The facts for the manifest."""
        return {
            "source": self.source.description,
            "source_fingerprint": self.source.fingerprint,
            "samples": self.samples.num_rows,
            "rows": self.tally.rows,
            "dropped": dict(self.tally.dropped),
            "tokens": self.tally.tokens,
            "trained_tokens": self.tally.trained_tokens,
            "sha256": self.fingerprint,
        }


def make_renderer(tokenizer: PreTrainedTokenizerBase, job: JobConfig) -> Renderer:
    """The renderer for this model: harmony's, unless another template is named, or the tokenizer's template."""
    data = job.dataset
    if is_harmony(tokenizer) and job.model.chat_template is None:
        return HarmonyRenderer(tokenizer, data.reasoning_effort, data.prompt_date, data.train_on)
    return TemplateRenderer(tokenizer, data.prompt_date, data.train_on, data.reasoning_effort)


def prepare(config: DatasetSection, source: RowSource, renderer: Renderer, max_seq_length: int) -> TokenizedDataset:
    """Render every row into samples.

    Samples longer than `max_seq_length` tokens, or without a trained token, are dropped and counted. A row that
    is not what its format says is a `DataError` that names it; so is a data set of which no sample is left.
    """
    tally, digest = Tally(), hashlib.sha256()
    batches: list[pa.RecordBatch] = []
    pending: list[Sample] = []

    def flush() -> None:
        columns = {
            "input_ids": [sample.input_ids for sample in pending],
            "labels": [sample.labels for sample in pending],
        }
        batches.append(pa.RecordBatch.from_pydict(columns, SCHEMA))
        for sample in pending:
            digest.update(np.asarray([len(sample.input_ids), *sample.input_ids, *sample.labels], "<i4").tobytes())
        pending.clear()

    for sample in _samples(config, source, renderer, max_seq_length, tally):
        pending.append(sample)
        if len(pending) == SAMPLES_PER_BATCH:
            flush()
    flush()
    table = Dataset(pa.Table.from_batches(batches, SCHEMA))
    if not table.num_rows:
        raise DataError(
            f"{source.description}: no sample is left to train on ({_in_words(tally)})",
            _cure(tally, max_seq_length),
            key="dataset.path",
        )
    return TokenizedDataset(table, source, tally, digest.hexdigest())


def _in_words(tally: Tally) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in tally.dropped.items())


def _cure(tally: Tally, max_seq_length: int) -> str:
    wanted = tally.length_that_keeps(0.99)
    if wanted > max_seq_length:
        return f"Raise model.max_seq_length: {wanted} keeps 99 % of the samples."
    return "Rows in the model's own markup need an answer of the assistant, or dataset.train_on: everything."


def _samples(
    config: DatasetSection, source: RowSource, renderer: Renderer, max_seq_length: int, tally: Tally
) -> Iterator[Sample]:
    for row_number, record in _records(config, source):
        tally.rows += 1
        try:
            rendered = renderer.render(record)
        except RowError as error:
            raise _bad_row(source, row_number, error) from None
        for sample in rendered:
            tally.lengths.append(len(sample.input_ids))
            if len(sample.input_ids) > max_seq_length:
                tally.dropped[f"longer than {max_seq_length} tokens"] += 1
            elif not sample.trained_tokens:
                tally.dropped["without a trained token"] += 1
            else:
                tally.texts += sample.is_plain
                tally.tokens += len(sample.input_ids)
                tally.trained_tokens += sample.trained_tokens
                yield sample


def _records(config: DatasetSection, source: RowSource) -> Iterator[tuple[int, Record]]:
    """Records with the 0-based number of their row."""
    format_ = FORMATS[config.format]
    columns = format_.columns(config, source.columns)
    for number, row in enumerate(source.rows()):
        try:
            yield number, format_.adapt(row, columns)
        except RowError as error:
            raise _bad_row(source, number, error) from None


def _bad_row(source: RowSource, number: int, error: RowError) -> DataError:
    return DataError(
        f"{source.description}, row {number}: {error}",
        "Mend or remove the row (rows count from 0).",
        key="dataset.path",
    )
