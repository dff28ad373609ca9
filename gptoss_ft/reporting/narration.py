"""The story of a run as it is told on the screen: what was resolved, decided and why, each once."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

import gptoss_ft
from gptoss_ft.config import JobConfig, LoadedConfig, by_owner
from gptoss_ft.data.summary import Progress, SplitSummary, Summary
from gptoss_ft.planning.plan import Plan
from gptoss_ft.reporting.console import counted, show_section
from gptoss_ft.reporting.memory_report import MemoryReport, show_memory_report
from gptoss_ft.reporting.output_folder import OutputFolder
from gptoss_ft.reporting.plan_report import show_memory, show_plan
from gptoss_ft.reporting.trainer_state import BestCheckpoint
from gptoss_ft.runtime import Device
from gptoss_ft.training.tracking import trackers

if TYPE_CHECKING:  # these import transformers, which Unsloth must come before
    from gptoss_ft.data.packing import FullRows
    from gptoss_ft.model.lora import AdapterFacts
    from gptoss_ft.planning.run_plan import RunPlan

# Between two lines on what is going on, where there is no terminal to write over one.
SECONDS_BETWEEN_LINES = 30


def show_config(console: Console, loaded: LoadedConfig) -> None:
    console.print(f"[bold]gptoss_ft {gptoss_ft.__version__}[/]  {loaded.source.path}")
    for owner, values in by_owner(loaded.job.model_dump()):
        show_section(console, owner, values)
    console.print("[dim]looking for the device, the data and the libraries[/]")


def show_start(console: Console, device: Device, output: OutputFolder, pushed_to: str | None) -> None:
    values: dict[str, object] = {"device": device.name, "memory": f"{device.total_gib:.1f} GiB"}
    if device.kind == "cuda":
        values |= {"driver": device.driver, "compute capability": device.capability}
    values["output folder"] = output.path
    if output.damages:
        damaged = (f"{each.name}: {each.wrong}; set aside as {each.aside}" for each in output.damages)
        values["damaged"] = "; ".join(damaged)
        if output.resume_from is None:
            values["begins anew"] = "no checkpoint that is whole is left"
    if output.gone is not None:
        values["earlier run"] = f"{output.gone}, is gone without an end; {_state_of_gone(output)}"
    if output.start.checkpoint is not None:
        values["goes on from"] = output.resume_from
    elif output.resume_from is not None:
        values["goes on from"] = f"{output.resume_from.name}, which an unfinished run of this job left"
    if pushed_to is not None:
        values["pushed to"] = pushed_to
    show_section(console, "machine", values)


def _state_of_gone(output: OutputFolder) -> str:
    if output.start.restart:
        return "its state is kept aside"
    return "its state is used" if output.resume_from is not None else "it left no checkpoint"


def show_differences(console: Console, output: OutputFolder) -> None:
    """In what this run differs from the one that it goes on from, and where what came later is now."""
    values: dict[str, object] = {change.key: f"{change.before} → {change.now}" for change in output.changes}
    if output.aside is not None:
        values["set aside"] = output.aside
    if values:
        show_section(console, "since the run before", values)


@contextmanager
def preparing(console: Console) -> Iterator[Progress]:
    """What tells of the rows while they are prepared: a line that is written over on a terminal, and elsewhere one
    every half minute."""
    started = shown = time.monotonic()

    def progress(rows: int, samples: int) -> None:
        nonlocal shown
        now = time.monotonic()
        words = f"prepared {rows:,} rows, {samples:,} samples, {rows / (now - started):,.0f} rows/s"
        if console.is_terminal:
            status.update(words)
        elif now - shown > SECONDS_BETWEEN_LINES:
            console.print(f"  {words}")
            shown = now

    with console.status("preparing the data") as status:
        yield progress


def show_data(console: Console, summary: Summary, job: JobConfig) -> None:
    train = summary.train
    values: dict[str, object] = {}
    for number, source in enumerate(summary.sources):
        name = "source" if len(summary.sources) == 1 else f"source {number}"
        values[name] = f"{source.description}: {source.rows:,} rows, of which {source.kept:,} are kept"
        for reason, dropped in source.dropped.items():
            values[f"  {reason}"] = f"{dropped:,} rows left out; {'; '.join(source.examples[reason][:3])}"
        if source.truncated:
            values["  truncated"] = f"{source.truncated:,} samples; {source.cut_answers:,} answers lost their end"
    values["training"] = _split_in_words(train)
    if summary.eval.samples:
        values["held out"] = _split_in_words(summary.eval)
    if len(train.efforts) > 1:
        values["reasoning effort"] = ", ".join(f"{number:,} {effort}" for effort, number in train.efforts.items())
    longest, most = max(summary.rendered_lengths), summary.length_that_keeps(0.99)
    values["longest"] = f"{longest:,} tokens; 99 % have at most {most:,}"
    if train.plain_texts:
        values["plain text"] = (
            f"{train.plain_texts:,} samples without a prompt: trained whole, with the end-of-text token"
        )
    if most > job.model.max_seq_length:
        values["to keep 99 %"] = f"set model.max_seq_length to {most}"
    show_section(console, "data as the model sees it", values)


def _split_in_words(split: SplitSummary) -> str:
    share = 100 * split.trained_tokens / split.tokens
    channels = ", ".join(f"{number:,} {channel}" for channel, number in split.channels.items())
    return f"{split.samples:,} samples, {split.tokens:,} tokens, {share:.1f} % of them trained: {channels}"


def show_model(
    console: Console, job: JobConfig, repository: str, model: Any, facts: "AdapterFacts", fused: bool
) -> None:
    loaded = repository if repository == job.model.name else f"{repository}, which stands for {job.model.name}"
    values: dict[str, object] = {
        "loaded": loaded,
        "weights": _weights(job, model, facts),
        "parameters": f"{facts.total:,}",
        "trainable": f"{facts.trainable:,} ({100 * facts.share:.2f} %), {facts.expert:,} of them in experts",
    }
    if fused:
        values["experts"] = "computed by this package's kernels (performance.fused_experts)"
    if job.model.adapter is not None:
        values["starts from"] = job.model.adapter
    show_section(console, "model as it is trained", values)


def _weights(job: JobConfig, model: Any, facts: "AdapterFacts") -> str:
    dtype = str(model.dtype).removeprefix("torch.")
    if facts.in_4bit:
        return f"4-bit, computed in {dtype}"
    if job.model.load_in_4bit:
        # A checkpoint that is quantized another way, or says that it is 16-bit.
        return f"{dtype}: Unsloth does not load this checkpoint in 4 bits"
    return dtype


def show_plan_of_run(console: Console, planned: "RunPlan") -> None:
    """What the plan chose and why; nothing where it is off because there is no GPU."""
    if planned.plan.estimate is not None:
        show_memory(console, planned.plan, planned.gpu)
    show_plan(console, planned.plan, planned.lengths)


def show_padded_instead(console: Console, plan: Plan) -> None:
    console.print(
        "  samples are padded, not laid end to end: this version of Unsloth computes attention in a way that is not "
        f"known here; {counted(plan.rows_at_once, 'sample')} at a time"
    )


def show_unfused(console: Console, error: Exception) -> None:
    """Of experts that this package's kernels could not compute: Unsloth's go on."""
    reason = str(error).strip().partition("\n")[0]
    console.print(f"  experts are computed by Unsloth from here on: {type(error).__name__}: {reason}", markup=False)


def show_replanned(console: Console, plan: Plan) -> None:
    """After the step ran out of memory, once for each smaller plan."""
    rows = (
        f"rows of at most {plan.row_tokens:,} tokens"
        if plan.rows == "packed"
        else f"{counted(plan.rows_at_once, 'sample')} at a time"
    )
    console.print(
        f"  the GPU's memory ran out: the step is computed again with {rows} and {plan.checkpointed_layers} layers "
        "recomputed; nothing is lost",
        style="yellow",
    )


def show_packing(console: Console, rows: "FullRows", job: JobConfig) -> None:
    samples, length = sum(map(len, rows.members)), job.model.max_seq_length
    effective = job.training.per_device_train_batch_size * job.training.gradient_accumulation_steps
    console.print(
        f"  packing: {samples:,} samples in {len(rows.members):,} rows of {length:,} tokens, {100 * rows.filled:.1f} % "
        f"full; an optimizer step takes {effective} rows, about {effective * samples / len(rows.members):.1f} samples"
    )


def show_training(console: Console, trainer: Any, job: JobConfig) -> None:
    arguments, tracked = trainer.args, trackers(job)
    effective = job.training.per_device_train_batch_size * job.training.gradient_accumulation_steps
    wanted = job.training.optim
    optimizer = str(getattr(arguments.optim, "value", arguments.optim))
    values: dict[str, object] = {
        "effective batch": f"{effective} {'rows' if job.training.packing else 'samples'}",
        "optimizer": optimizer
        if optimizer == wanted
        else f"{optimizer}, in place of {wanted}, which this device does not have",
        "autocast": "bfloat16" if arguments.bf16 else "float16" if arguments.fp16 else "none",
        "tracked by": tracked or "log.jsonl alone",
    }
    if "wandb" in job.tracking.report_to and "wandb" not in tracked:
        values["wandb"] = "off: WANDB_API_KEY is not set"
    show_section(console, "training", values)


def show_best(console: Console, best: BestCheckpoint) -> None:
    made_of = "it" if best.wrong is None else f"the newest checkpoint, for it is damaged: {best.wrong}"
    console.print(
        f"  {best.path.name} has the lowest loss on held-out rows, {best.loss:.4f}: final_model is made of {made_of}"
    )


def show_evaluating(console: Console, samples: int) -> None:
    console.print(f"[dim]evaluating on {counted(samples, 'sample')}[/]")


def show_end(console: Console, memory: MemoryReport, device: Device, final_model: Path) -> None:
    show_memory_report(console, memory, device)
    console.print(f"[bold green]done[/]: the adapter is in {final_model}")


def show_push(console: Console, folder: Path, repo_id: str, is_private: bool, wants_private: bool) -> None:
    visible = "private" if is_private else "public"
    there = "" if is_private == wants_private else ", which it was before: change that on its settings page"
    console.print(f"pushing {folder} to {repo_id}, {visible}{there}")


def show_pushed(console: Console, address: str) -> None:
    console.print(f"pushed to {address}")
