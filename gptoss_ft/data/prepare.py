"""The data set's rows → the samples that training sees, with a count of everything that was left out.

rows → adapter → drafts → samples → policies → a file of rendered samples → selection → train and eval

Nothing is held in memory beyond a batch of rows, and the result lies in the cache under a key made of everything that
it was made from: the second run with the same data, tokenizer and settings prepares nothing.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import DatasetSection, JobConfig
from gptoss_ft.data.conversation import Conversation, Effort, RowError, is_effort
from gptoss_ft.data.entries import Entry, keyed
from gptoss_ft.data.handed_over import read_prepared
from gptoss_ft.data.harmony_rendering import HarmonyRenderer, is_harmony
from gptoss_ft.data.intake import TOO_LONG, Intake, LaidOut
from gptoss_ft.data.rendering import Draft, Encoder, Sample, assemble
from gptoss_ft.data.selection import BEYOND_SHARE, Selection, select
from gptoss_ft.data.storage import (
    SPLITS,
    PreparedData,
    Rendered,
    RenderedFile,
    SplitWriter,
    from_cache,
    to_batch,
    write_summary,
)
from gptoss_ft.data.summary import RENDERING_VERSION, Progress, SourceSummary, Summary, count
from gptoss_ft.data.template_rendering import TemplateRenderer
from gptoss_ft.errors import DataError, JobError

# A batch is tokenized at once: enough for all cores, little enough for memory.
ROWS_AT_ONCE = 256
CHARACTERS_AT_ONCE = 4_000_000

Renderer = HarmonyRenderer | TemplateRenderer


def make_renderer(tokenizer: PreTrainedTokenizerBase, job: JobConfig, config: DatasetSection) -> Renderer:
    """The renderer for this model: harmony's, unless another template is named, or the tokenizer's template."""
    effort: Effort = config.reasoning_effort if is_effort(config.reasoning_effort) else "medium"
    encoder = Encoder(tokenizer)
    if is_harmony(tokenizer) and job.model.chat_template is None:
        return HarmonyRenderer(tokenizer, encoder, effort, config.prompt_date, config.train_on)
    return TemplateRenderer(tokenizer, encoder, effort, config.prompt_date, config.train_on)


def prepare(
    job: JobConfig, entries: Sequence[Entry], tokenizer: PreTrainedTokenizerBase, progress: Progress | None = None
) -> PreparedData:
    """The samples of a job: from the folder `dataset.prepared`, from the cache, or rendered into it.

    Raises `DataError` that names the rows, where `dataset.on_invalid` or `on_too_long` says so, where more rows are
    invalid than `max_invalid_fraction` allows, and where no sample is left to train on.
    """
    tokenizer_hash = tokenizer_fingerprint(tokenizer)
    handed_over = job.datasets[0].prepared
    if handed_over is not None:
        return read_prepared(Path(os.path.expanduser(handed_over)), tokenizer_hash, job.model.max_seq_length)
    key = _key(job, entries, tokenizer_hash)

    def make(folder: Path) -> None:
        summary = _render(job, entries, tokenizer, folder, progress)
        _finish(job, entries, folder, summary.model_copy(update={"key": key, "tokenizer": tokenizer_hash}))

    data = from_cache(key[:32], make)
    # The rows may have been prepared when their file had another name.
    for entry, counts in zip(entries, data.summary.sources, strict=True):
        counts.description = entry.source.description
    return data


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what decides how text becomes tokens: vocabulary, merges, special tokens and chat template."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    parts = [backend.to_str(), str(tokenizer.chat_template), json.dumps(tokenizer.special_tokens_map, sort_keys=True)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


# What names the data, and what the data's own fingerprint says better.
_NAMES_ONLY = {"path", "name", "revision", "split", "prepared"}


def _key(job: JobConfig, entries: Sequence[Entry], tokenizer_hash: str) -> str:
    """SHA-256 of everything that the samples are made from."""
    chooses = any(entry.config.eval_fraction or entry.config.weight is not None for entry in entries)
    decides = {
        "rendering": RENDERING_VERSION,
        "tokenizer": tokenizer_hash,
        "own_template": job.model.chat_template is not None,
        "max_seq_length": job.model.max_seq_length,
        "seed": job.training.seed if chooses else None,
        "entries": [
            {
                "source": entry.source.fingerprint,
                "columns": entry.source.columns,
                **entry.config.model_dump(mode="json", exclude=_NAMES_ONLY),
            }
            for entry in entries
        ],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def lay_out(entry: Entry, renderer: Renderer) -> Iterator[LaidOut]:
    """Every row of an entry, adapted and drafted. Rows count from 0, those that cannot be read as well."""
    usual = entry.config.reasoning_effort
    effort: Effort | None = usual if is_effort(usual) else None
    for number, row in enumerate(entry.source.rows()):
        own: Effort | None = None
        drafts: list[Draft] | RowError
        try:
            if isinstance(row.content, RowError):
                raise row.content
            record = entry.adapter.adapt(row.content)
            if isinstance(record, Conversation):
                own = record.effort or effort
            drafts = renderer.draft(record)
        except RowError as error:
            drafts = error
        yield LaidOut(number, row.place, drafts, own)


def _in_batches(rows: Iterator[LaidOut]) -> Iterator[list[LaidOut]]:
    batch: list[LaidOut] = []
    characters = 0
    for row in rows:
        batch.append(row)
        if not isinstance(row.drafts, RowError):
            characters += sum(len(part.tokens) for draft in row.drafts for part in draft.parts)
        if len(batch) == ROWS_AT_ONCE or characters > CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


Made = tuple[LaidOut, list[Sample] | RowError]


def _assembled(rows: Iterator[LaidOut], encoder: Encoder) -> Iterator[Made]:
    """Rows with their samples, in order. One batch is tokenized while the next is laid out.

    `encoder` is the one that the rows are laid out with: its lock is what keeps the two threads apart.
    """
    with ThreadPoolExecutor(1) as worker:
        waiting: Future[list[Made]] | None = None
        for batch in _in_batches(rows):
            following = worker.submit(_assemble_batch, batch, encoder)
            if waiting is not None:
                yield from waiting.result()
            waiting = following
        if waiting is not None:
            yield from waiting.result()


def _assemble_batch(batch: list[LaidOut], encoder: Encoder) -> list[Made]:
    drafts = [draft for row in batch if not isinstance(row.drafts, RowError) for draft in row.drafts]
    assembled = iter(assemble(drafts, encoder))
    made: list[Made] = []
    for row in batch:
        if isinstance(row.drafts, RowError):
            made.append((row, row.drafts))
            continue
        samples = list(islice(assembled, len(row.drafts)))
        # A row of which one answer cannot be rendered is invalid as a whole.
        error = next((sample for sample in samples if isinstance(sample, RowError)), None)
        made.append((row, error or [sample for sample in samples if isinstance(sample, Sample)]))
    return made


def _render(
    job: JobConfig,
    entries: Sequence[Entry],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    progress: Progress | None,
) -> Summary:
    """Write every sample that the policies keep to a file in `folder`, and count the rest."""
    summary = Summary(key="", tokenizer="", max_seq_length=job.model.max_seq_length)
    samples, rows = 0, 0
    with _rendered_file(folder).writer() as writer:
        for entry in entries:
            renderer = make_renderer(tokenizer, job, entry.config)
            counts = SourceSummary(description=entry.source.description, fingerprint=entry.source.fingerprint)
            summary.sources.append(counts)
            intake = Intake(entry, job.model.max_seq_length, counts)
            pending: list[Rendered] = []
            with keyed(entry.key):
                for row, made in _assembled(lay_out(entry, renderer), renderer.encoder):
                    pending += intake.take(row, made)
                    rows += 1
                    if rows % ROWS_AT_ONCE == 0:
                        samples += len(pending)
                        _flush(writer, pending, intake, summary)
                        if progress is not None:
                            progress(rows, samples)
                _flush(writer, pending, intake, summary)
                intake.finish()
    return summary


def _rendered_file(folder: Path) -> RenderedFile:
    return RenderedFile(folder / "rendered.arrow")


def _flush(writer: Any, pending: list[Rendered], intake: Intake, summary: Summary) -> None:
    summary.rendered_lengths.update(count(intake.lengths))
    intake.lengths.clear()
    if pending:
        writer.write_batch(to_batch(pending))
        pending.clear()


def _finish(job: JobConfig, entries: Sequence[Entry], folder: Path, summary: Summary) -> None:
    """Split the rendered samples into train.arrow and eval.arrow, complete the summary and write it."""
    rendered = _rendered_file(folder)
    selection = select([entry.config for entry in entries], rendered, job.training.seed)
    _count_kept(summary, rendered, selection)
    writers = {split: SplitWriter(folder / f"{split}.arrow") for split in SPLITS}
    masks = {"train": selection.train, "eval": selection.eval}
    position = 0
    for batch in rendered.batches():
        for split, writer in writers.items():
            writer.write(batch.filter(pa.array(masks[split][position : position + batch.num_rows])))
        position += batch.num_rows
    for writer in writers.values():
        writer.close()
    summary.train, summary.eval = writers["train"].summary, writers["eval"].summary
    summary.fingerprint = hashlib.sha256(
        "".join(writers[split].hash.hexdigest() for split in SPLITS).encode()
    ).hexdigest()
    rendered.path.unlink()
    if not summary.train.samples:
        raise _nothing_left(entries, summary)
    write_summary(folder, summary)


def _count_kept(summary: Summary, rendered: RenderedFile, selection: Selection) -> None:
    """Count the rows that are kept, and those of which the selection left no sample."""
    source, row = rendered.column("source"), rendered.column("source_row")
    kept = selection.train | selection.eval
    for index, counts in enumerate(summary.sources):
        of_source = source == index
        counted = np.unique(row[of_source & kept])
        counts.kept = len(counted)
        for reason, left_out in selection.left_out.items():
            left = of_source & left_out
            counts.dropped_samples[reason] += int(left.sum())
            lost = np.setdiff1d(row[left], counted)
            counted = np.union1d(counted, lost)
            for number in lost.tolist():
                counts.drop(reason, f"row {number}")
        counts.dropped_samples = +counts.dropped_samples


def _nothing_left(entries: Sequence[Entry], summary: Summary) -> JobError:
    found = ", ".join(f"{number:,} {reason}" for reason, number in summary.dropped.items())
    message = f"{summary.description}: no sample is left to train on ({found or 'all are evaluated on'})"
    wanted = summary.length_that_keeps(0.99)
    empty = _empty_share(entries, summary)
    if empty is not None:
        return DataError(
            f"{empty.source.description}: no row is left to train on, and without one there are no shares",
            f"Mend the data or how it is read, or take {empty.key} out; shares are cut to what each entry has.",
            key=f"{empty.key}.weight",
        )
    if TOO_LONG in summary.dropped and wanted > summary.max_seq_length:
        cure, key = f"Raise model.max_seq_length: {wanted} keeps 99 % of the samples.", "path"
    elif summary.eval.samples:
        cure, key = "Give more rows, or hold fewer of them out for evaluation.", "eval_fraction"
    else:
        cure = "Rows in the model's own markup need an answer of the assistant, or dataset.train_on: everything."
        key = "path"
    return DataError(message, cure, key=f"{entries[0].key}.{key}")


def _empty_share(entries: Sequence[Entry], summary: Summary) -> Entry | None:
    """The entry with a weight whose lack of rows made every other entry's share empty."""
    if all(BEYOND_SHARE not in counts.dropped_samples for counts in summary.sources):
        return None
    return next(
        entry
        for entry, counts in zip(entries, summary.sources, strict=True)
        if entry.config.weight is not None and BEYOND_SHARE not in counts.dropped_samples
    )
