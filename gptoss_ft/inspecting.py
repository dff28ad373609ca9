"""The data half of a job on its own: what `prepare`, `preview` and `validate` do. Needs no Unsloth, no GPU, no weights.

What is prepared here lies in the cache afterwards, so that training does not prepare it again.
"""

import os
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gptoss_ft.config import JobConfig, LoadedConfig
from gptoss_ft.data.entries import open_entries
from gptoss_ft.data.intake import check_first_rows
from gptoss_ft.errors import ExitCode, JobError, MachineError, OutputError
from gptoss_ft.planning.known_lengths import remember
from gptoss_ft.reporting import narration
from gptoss_ft.reporting.console import make_console, quiet_libraries, show_failed, show_passed
from gptoss_ft.runtime import GIB, cache_folder, free_gib, hub_cache, image_id, output_root, prepare_environment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from gptoss_ft.data.storage import PreparedData, Split
    from gptoss_ft.data.summary import Summary

# Rows that `validate` also renders with openai-harmony.
ROWS_COMPARED = 64
# Room for a small job's checkpoints, log and adapter.
OUTPUT_GIB = 2.0
# And for compiled kernels and prepared samples.
CACHE_GIB = 0.5


def prepare_data(loaded: LoadedConfig, output: Path) -> None:
    """Write the samples that training would see to the new folder `output`: train.parquet, eval.parquet and
    summary.json. Raises `JobError`; leaves nothing at `output` then."""
    console = make_console()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise OutputError(f"{output} is there already", "Name a folder that is new, or empty.")
    data, _ = _prepared(loaded.job, console)
    beside = output.with_name(f".{output.name}.part")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        from gptoss_ft.data.handed_over import write_prepared

        write_prepared(data, beside)
        if output.exists():
            output.rmdir()
        beside.rename(output)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}", _another_folder()) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    narration.show_data(console, data.summary, loaded.job)
    console.print(f"[bold green]done[/]: {output} can be trained on with dataset.prepared: {output}")


def _another_folder() -> str:
    return "Name another folder." if image_id() is None else "Name one below /outputs, which is yours outside too."


def preview_data(loaded: LoadedConfig, samples: int, html: Path | None, split: "Split") -> None:
    """Show what is trained, or of the split `eval` what is held out: on the screen, or with `html` as a page. Raises
    `JobError`."""
    from gptoss_ft.reporting.preview import show_preview, write_html

    console = make_console()
    data, tokenizer = _prepared(loaded.job, console)
    if html is None:
        show_preview(console, data, tokenizer, loaded.job, samples, split)
    else:
        write_html(html, data, tokenizer, loaded.job, samples, split)
        console.print(f"[bold green]done[/]: {html}")


def _prepared(job: JobConfig, console: Console) -> "tuple[PreparedData, PreTrainedTokenizerBase]":
    prepare_environment()
    entries = open_entries(job)
    check_first_rows(entries)
    with quiet_libraries(Path(os.devnull)):
        from gptoss_ft.data.prepare import prepare
        from gptoss_ft.data.tokenizer import load_job_tokenizer

        tokenizer = load_job_tokenizer(job.model)
        with narration.preparing(console) as progress:
            data = prepare(job, entries, tokenizer, progress)
    remember(job, data.summary)
    return data, tokenizer


def validate_job(loaded: LoadedConfig, show: Callable[[JobError], None]) -> ExitCode:
    """Check everything that can be wrong without a GPU and without the model's weights, and go on after a mistake.

    Each mistake is given to `show`. Returns the exit code of the first one.
    """
    job, console = loaded.job, make_console()
    prepare_environment()
    show_passed(console, "config", loaded.source.path)
    checks = _Checks(job)
    found: list[ExitCode] = []
    for name, check in (
        ("model", checks.model),
        ("data", checks.data),
        ("disk", checks.disk),
        ("hub", checks.hub),
    ):
        if name == "disk" and found:
            continue  # what is to be downloaded is known of a model that can be had
        try:
            with quiet_libraries(Path(os.devnull)):
                words = check()
            show_passed(console, name, words)
        except JobError as error:
            show_failed(console, name)
            show(error)
            found.append(error.exit_code)
    return found[0] if found else ExitCode.DONE


def _left_out(summary: "Summary") -> str:
    """What was left out of the samples, with the first row of each reason, and what would keep more."""
    found = []
    for reason, number in summary.dropped.items():
        first = next(source.examples[reason][0] for source in summary.sources if reason in source.examples)
        found.append(f"{number:,} rows {reason}, first {first}")
    samples = sum(source.dropped_samples.total() for source in summary.sources)
    cut = sum(source.cut_answers for source in summary.sources)
    if samples:
        found.append(f"{samples:,} samples left out in all")
    if cut:
        found.append(f"{cut:,} answers lost their end")
    if (keeps := summary.length_that_keeps(0.99)) > summary.max_seq_length:
        found.append(f"model.max_seq_length {keeps} keeps 99 %")
    return "; ".join(found) or "none left out"


class _Checks:
    """What `validate` looks at; each check says what it found or raises `JobError`."""

    def __init__(self, job: JobConfig) -> None:
        self._job = job
        self._has_model = False

    @cached_property
    def _repository(self) -> str:
        from gptoss_ft.model.repository import find_repository

        return find_repository(self._job.model)

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        from gptoss_ft.data.tokenizer import load_job_tokenizer

        return load_job_tokenizer(self._job.model)

    def model(self) -> str:
        """The model's config and tokenizer can be had, and it takes samples of `max_seq_length`."""
        words = f"{self._repository}, {len(self._tokenizer):,} tokens in its vocabulary"
        self._has_model = True
        return words

    def data(self) -> str:
        """Every row is read, rendered and checked by the config's policies; for harmony the first rows are rendered by
        openai-harmony too."""
        from gptoss_ft.data.harmony_check import check_rows
        from gptoss_ft.data.prepare import prepare

        entries = open_entries(self._job)
        check_first_rows(entries)
        if not self._has_model:
            return "the first rows are what their format says; the others need the model's tokenizer"
        summary = prepare(self._job, entries, self._tokenizer).summary
        words = f"{summary.rows:,} rows ({_left_out(summary)})"
        compared = sum(check_rows(self._job, entry, self._tokenizer, ROWS_COMPARED) for entry in entries)
        equal = f"; the first {compared} equal openai-harmony's, token for token" if compared else ""
        return f"{words}, {summary.train.samples:,} samples to train on{equal}"

    def disk(self) -> str:
        """What is still to be downloaded fits, and there is room for results."""
        from gptoss_ft.model.repository import bytes_to_fetch

        needed = bytes_to_fetch(self._job.model, self._repository) / GIB
        for folder, gib, what in (
            (hub_cache(), needed, "the model, which is still to be downloaded,"),
            (output_root(), OUTPUT_GIB, "checkpoints"),
            (cache_folder(), CACHE_GIB, "caches"),
        ):
            if free_gib(folder) < gib:
                raise MachineError(
                    f"{folder} has {free_gib(folder):.1f} GiB free; {what} need {gib:.1f} GiB",
                    "Make space, or move it: HF_HOME for models, GPTOSS_FT_CACHE for caches, OUTPUT_ROOT for results.",
                )
        to_fetch = f"{needed:.1f} GiB to download, " if needed else ""
        return f"{to_fetch}{free_gib(hub_cache()):.0f} GiB free for models, {free_gib(output_root()):.0f} for results"

    def hub(self) -> str:
        """The token may do what the job asks of it, and the model card can be written."""
        from gptoss_ft.publishing.hub import check_push_rights, lacks_token
        from gptoss_ft.publishing.model_card import check_card

        check_card(self._job)
        repo_id = check_push_rights(self._job)
        if repo_id is not None:
            return f"the adapter will go to {repo_id}"
        return "nothing is pushed" + (", because HF_TOKEN is not set" if lacks_token(self._job) else "")
