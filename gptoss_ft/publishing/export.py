"""The story of `export`: an adapter as stock transformers and PEFT take it, verified; and whether llama.cpp or vLLM
would take a merged model."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptoss_ft.config import find_job_file
from gptoss_ft.errors import OutputError, SettingError
from gptoss_ft.merging.base_choice import choose_base
from gptoss_ft.merging.trained_weights import stock_weights
from gptoss_ft.publishing.loader_checks import check_loader
from gptoss_ft.publishing.loader_tables import Loader
from gptoss_ft.publishing.run_facts import write_source
from gptoss_ft.reporting.console import make_console
from gptoss_ft.reporting.files import follow_umask
from gptoss_ft.reporting.only_writer import only_writer
from gptoss_ft.runtime import find_device, prepare_environment
from gptoss_ft.subject import Subject
from gptoss_ft.verification.verify import refuse_unverifiable, verify

PORTABLE_ADAPTER = "portable_adapter"
CARD = "README.md"


def export_adapter(subject: Subject, output: Path | None, keep_base: Path | None) -> Path:
    """Write the adapter of `subject` to `output` (None: portable_adapter in its run's folder), verified on the stock
    model, and return the folder.

    Where the weights that were trained on are no stock model as they lie, one is made of them for the verification;
    `keep_base` is where it stays. Raises `JobError`; there is no folder `output` then.
    """
    adapter, model, console = subject.require_adapter(), subject.job.model, make_console()
    target = output or subject.beside(PORTABLE_ADAPTER)
    prepare_environment()
    device = find_device(model.device)
    refuse_unverifiable(model, "trained", device)
    with _becoming(target) as partial:
        chosen = choose_base(model, adapter, "trained", device, console)
        temporary = partial.with_name(f".{target.name}.base")
        with stock_weights(chosen, model, device, temporary, keep_base, console) as base:
            verify(subject.on_base(chosen.section), partial, "adapter", base=base, writes_adapter=True, console=console)
        _copy_words(adapter, partial)
        write_source(partial, adapter)
    console.print(f"[bold green]done[/]: {target} goes on the stock model with transformers and PEFT")
    return target


def check_export(subject: Subject, loader: Loader) -> None:
    """Show whether `loader` would take the merged model `subject`; `ExportError` where it would not."""
    if subject.kind != "merged" or subject.folder is None:
        raise SettingError(
            f"{subject.name} is not a merged model, which is what llama.cpp and vLLM load",
            "Merge the adapter first with `merge`, or name a merged model's folder with --model.",
            "model.name",
        )
    check_loader(subject.folder, loader, make_console())


@contextmanager
def _becoming(target: Path) -> Iterator[Path]:
    """A folder beside `target` that gets its name when all went well, and is gone when not. No other process writes to
    it meanwhile."""
    with only_writer(target):
        if target.exists():
            raise OutputError(f"{target} is there already", "Remove it, or name another folder with --output.")
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            yield partial
            follow_umask(partial)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _copy_words(adapter: Path, folder: Path) -> None:
    """The job and the card of what was exported, where it has them."""
    for file in (find_job_file(adapter), adapter / CARD):
        if file is not None and file.is_file():
            shutil.copyfile(file, folder / file.name)
