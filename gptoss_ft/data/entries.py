"""The entries of `dataset`, opened: each with its rows and its format."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gptoss_ft.config import DatasetSection, JobConfig
from gptoss_ft.data.adapters import Adapter, open_adapter
from gptoss_ft.data.sources import RowSource, open_source
from gptoss_ft.errors import JobError


@dataclass(frozen=True)
class Entry:
    """One entry of the data set: its 0-based index, its key in the config (`dataset`, `dataset[1]`), its settings,
    its rows, and what reads them."""

    index: int
    key: str
    config: DatasetSection
    source: RowSource
    adapter: Adapter


def open_entries(job: JobConfig) -> tuple[Entry, ...]:
    """Open every entry; none where the data is prepared already.

    Raises the errors of `open_source` and `open_adapter`, their keys those of the entry.
    """
    if job.datasets[0].prepared is not None:
        return ()
    is_list = isinstance(job.dataset, list)
    entries = []
    for index, config in enumerate(job.datasets):
        key = f"dataset[{index}]" if is_list else "dataset"
        with keyed(key):
            source = open_source(config)
            entries.append(Entry(index, key, config, source, open_adapter(config, source.columns)))
    return tuple(entries)


@contextmanager
def keyed(key: str) -> Iterator[None]:
    """Let errors about `dataset.path` and the like be about the entry `key`, in their cures as well."""
    try:
        yield
    except JobError as error:
        error.key = error.key.replace("dataset.", f"{key}.", 1)
        error.cure = error.cure.replace("dataset.", f"{key}.")
        raise
