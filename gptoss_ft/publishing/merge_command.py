"""The story of `merge`: from an adapter to a whole model that stock transformers loads."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gptoss_ft.config import find_job_file, write_job_file
from gptoss_ft.errors import JobError
from gptoss_ft.inference.evaluate_command import loss_in_child
from gptoss_ft.merging.base_choice import Base, choose_base, compute_dtype
from gptoss_ft.publishing.model_card import write_card
from gptoss_ft.publishing.run_facts import read_facts, write_source
from gptoss_ft.reporting.console import make_console, quiet_libraries, show_section, working
from gptoss_ft.reporting.merge_report import merging, show_losses, show_merged
from gptoss_ft.reporting.only_writer import only_writer
from gptoss_ft.reporting.output_folder import MERGED_MODEL
from gptoss_ft.runtime import (
    cache_folder,
    evaluation_wanted,
    find_device,
    prepare_environment,
    release_cached_memory,
)
from gptoss_ft.subject import Subject
from gptoss_ft.verification.verify import refuse_unverifiable, verify

if TYPE_CHECKING:  # this imports torch
    from gptoss_ft.merging.merge import MergeResult


def merge_adapter(
    subject: Subject, base: Base, output: Path | None, dtype: str | None, overwrite: bool
) -> "MergeResult":
    """Merge the adapter `subject` into the weights that it was trained on or the published ones, in `dtype` (None: what
    the run computed in), verified, to `output` (None: merged_model in its run's folder). Raises `JobError`."""
    adapter, job, console = subject.require_adapter(), subject.job, make_console()
    target = output or subject.beside(MERGED_MODEL)
    prepare_environment()
    device = find_device(job.model.device)
    cache_folder().mkdir(parents=True, exist_ok=True)
    with quiet_libraries(cache_folder() / "libraries.log"):
        import torch

        from gptoss_ft.merging.deltas import open_adapter
        from gptoss_ft.merging.merge import merge, refuse_existing

        open_adapter(adapter)
        refuse_unverifiable(job.model, base, device)
        # Before anything is downloaded or told; `merge` holds it itself.
        with only_writer(target):
            refuse_existing(target, [adapter], overwrite)
        chosen = choose_base(job.model, adapter, base, device, console)
        into = getattr(torch, dtype) if dtype else compute_dtype(job.model, device)
        values = {
            "adapter": adapter,
            "into": chosen.words,
            "written in": str(into).removeprefix("torch."),
            "to": target,
        }
        show_section(console, "merge", values)
        if base == "original":
            console.print(
                "[dim]the verification loads the published 16-bit model through Unsloth, which takes a GPU (or, on the "
                "CPU, memory) that holds it[/]"
            )

        def finish(folder: Path) -> None:
            release_cached_memory(device)
            write_job_file(subject.own_job(), folder)
            write_source(folder, adapter)
            verify(subject.on_base(chosen.section), folder, "merged", console=console)

        with merging(console) as progress:
            result = merge(
                adapter,
                chosen.folder,
                target,
                dtype=into,
                device=torch.device(device.kind),
                quantized_as=chosen.quantized_as,
                progress=progress,
                finish=finish,
                overwrite=overwrite,
            )
    write_card(target, read_facts(target), subject.own_job(), "merged")
    show_merged(console, result)
    losses_on_held_out(subject, target, console)
    return result


def losses_on_held_out(subject: Subject, merged: Path, console: Console) -> None:
    """Show the loss of the adapter on what it was trained on, and of the model merged from it, each measured in a
    process of its own; or why there is none. The merged model is whole and verified already."""
    if not evaluation_wanted():
        return
    if not any(entry.eval or entry.eval_fraction for entry in subject.job.datasets):
        console.print("[dim]no row is held out to measure a loss on (dataset.eval_fraction)[/]")
        return
    with tempfile.TemporaryDirectory() as name, working(console, "measuring the loss on held-out rows"):
        write_job_file(subject.job, Path(name))
        job_file = str(find_job_file(Path(name)))
        try:
            losses = [
                loss_in_child(["--model", str(folder), "--config", job_file]) for folder in (subject.folder, merged)
            ]
        except JobError as error:
            console.print(f"the losses on held-out rows were not measured: {error.message}", markup=False)
            return
    show_losses(console, *losses)
