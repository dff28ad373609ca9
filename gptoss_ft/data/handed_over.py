"""Prepared data as files that are handed over: what `prepare --output` writes, and `dataset.prepared` reads."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from gptoss_ft.data.storage import SCHEMA, SPLITS, SUMMARY, PreparedData, SampleHash, from_cache, write_summary
from gptoss_ft.data.summary import Summary
from gptoss_ft.errors import DataError

KEY = "dataset.prepared"
SAMPLES_PER_GROUP = 1024


def write_prepared(data: PreparedData, folder: Path) -> None:
    """Write train.parquet, eval.parquet (without rows where nothing is evaluated on) and summary.json."""
    for split in SPLITS:
        with pq.ParquetWriter(folder / f"{split}.parquet", SCHEMA, compression="zstd") as writer:
            for group in _groups(data.batches(split)):
                writer.write_table(group)
    write_summary(folder, data.summary)


def _groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches put together to row groups of `SAMPLES_PER_GROUP` samples or a little more."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(each.num_rows for each in waiting) >= SAMPLES_PER_GROUP:
            yield pa.Table.from_batches(waiting, SCHEMA)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting, SCHEMA)


def read_prepared(folder: Path, tokenizer_hash: str, max_seq_length: int) -> PreparedData:
    """Open a folder that `write_prepared` wrote, for a model with this tokenizer.

    The samples go through the cache, where they are memory-mapped. Raises `DataError` for a folder that is none, that
    was changed since, or that was prepared for another tokenizer or for longer samples.
    """
    summary = _read_summary(folder)
    if summary.tokenizer != tokenizer_hash:
        raise DataError(
            f"{folder} was prepared with another tokenizer or chat template than that of model.name",
            "Prepare it again with this model.",
            key=KEY,
        )
    longest = max([*summary.train.lengths, *summary.eval.lengths], default=0)
    if longest > max_seq_length:
        raise DataError(
            f"{folder} holds a sample of {longest:,} tokens, more than model.max_seq_length {max_seq_length:,}",
            f"Set model.max_seq_length to {longest} or more, or prepare it again.",
            key=KEY,
        )
    return from_cache(f"of-{_hash(folder)[:32]}", lambda beside: _convert(folder, beside, summary))


def _read_summary(folder: Path) -> Summary:
    try:
        return Summary.model_validate_json((folder / SUMMARY).read_bytes())
    except OSError as error:
        raise DataError(
            f"{folder} holds no {SUMMARY} that can be read: {error.strerror}",
            "Name a folder that `prepare --output` wrote.",
            key=KEY,
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DataError(
            f"{folder / SUMMARY} is not one of this version's: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            "Prepare the data again.",
            key=KEY,
        ) from None


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in [SUMMARY, *(f"{split}.parquet" for split in SPLITS)]:
        try:
            with (folder / name).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read: {error.strerror}", key=KEY) from None
    return digest.hexdigest()


def _convert(folder: Path, target: Path, summary: Summary) -> None:
    """Copy the samples into Arrow files, and see that they are those of the summary."""
    digests = []
    for split in SPLITS:
        source, digest = folder / f"{split}.parquet", SampleHash()
        try:
            with pq.ParquetFile(source) as table, pa.ipc.new_file(str(target / f"{split}.arrow"), SCHEMA) as writer:
                if not table.schema_arrow.equals(SCHEMA):
                    raise _changed(source)
                for batch in table.iter_batches(batch_size=SAMPLES_PER_GROUP):
                    digest.update(batch)
                    writer.write_batch(batch)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(f"{source}: not Parquet: {str(error).strip()}", key=KEY) from None
        digests.append(digest.hexdigest())
    if hashlib.sha256("".join(digests).encode()).hexdigest() != summary.fingerprint:
        raise _changed(folder)
    write_summary(target, summary)


def _changed(path: Path) -> DataError:
    return DataError(
        f"{path} does not hold the samples that its {SUMMARY} tells of",
        "Prepare the data again; rows are left out by the config, not by editing the files.",
        key=KEY,
    )
