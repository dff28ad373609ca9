"""What a plan looks like: the model and its samples, memory by part, each choice with its reason, and the speed."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gptoss_ft.config import JobConfig
from gptoss_ft.planning.adapter_size import trained_values
from gptoss_ft.planning.gpus import GpuMemory
from gptoss_ft.planning.known_lengths import Known
from gptoss_ft.planning.lengths import Lengths
from gptoss_ft.planning.plan import Plan
from gptoss_ft.planning.shapes import ModelShapes
from gptoss_ft.reporting.console import duration, show_section

BAR = 40
HELD = {"nf4": "4 bits (NF4)", "mxfp4": "4 bits (MXFP4)"}


def show_subject(console: Console, job: JobConfig, repository: str, shapes: ModelShapes | None, known: Known) -> None:
    """Model, adapter and samples that the plan is for."""
    loaded = repository if repository == job.model.name else f"{repository}, which stands for {job.model.name}"
    values: dict[str, object] = {"model": loaded}
    if shapes is not None:
        values["parameters"] = f"{sum(shapes.parameters().values()):,}"
        values["weights"] = _weights(shapes)
        values["trainable"] = f"{trained_values(job.lora, shapes):,}"
    lengths = known.lengths
    values["lengths"] = known.source
    if not lengths.assumed:
        values["samples"] = (
            f"{len(lengths.values):,}, of {lengths.mean:,.0f} tokens on average and {lengths.longest:,} at most"
        )
    values["optimizer step"] = (
        f"{lengths.effective_batch} samples, {lengths.mean_step_tokens:,.0f} tokens on average, 95 % of steps at most "
        f"{lengths.step_tokens(0.95):,}, none above {lengths.step_bound:,}"
    )
    show_section(console, "planned for", values)


def _weights(shapes: ModelShapes) -> str:
    """What holds MLP and attention of the layers; some layers of a quantized upload may be held whole."""
    whole = f"{8 * shapes.whole_bytes} bits"
    names = {"experts" if shapes.is_moe else "MLP": shapes.experts_held, "attention": shapes.attention_held}
    return ", ".join(
        f"{name} in {' and '.join(sorted({HELD.get(held, whole) for held in helds}))}" for name, helds in names.items()
    )


def show_memory(console: Console, plan: Plan, device: GpuMemory) -> None:
    """The expected peak by part, each with a bar that is as long as its share of what the plan may use."""
    if plan.estimate is None or plan.room is None:
        return
    budget = plan.room.budget_gib
    name = f"{device.name}, " if device.name else "a GPU of "
    limit = plan.room.job.performance.memory_limit_gib
    within = "" if limit is None else f" (performance.memory_limit_gib: {limit:g})"
    console.print(
        f"[bold cyan]expected memory[/] of {escape(name)}{device.total_gib:.1f} GiB; "
        f"a plan may use {max(budget, 0):.1f}{within}"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column()
    start, longest = 0.0, max(budget, plan.estimate.peak_gib)
    for part, gib in plan.estimate.parts().items():
        if gib >= 0.005:
            table.add_row(f"  {part}", f"{gib:.2f}", _bar(start, start + gib, longest))
            start += gib
    style = "bold" if plan.fits else "bold red"
    table.add_row("  peak", f"[{style}]{plan.estimate.peak_gib:.2f}[/] GiB", "")
    console.print(table)


def _bar(start: float, end: float, whole: float) -> str:
    """A bar from `start` to `end`, where the line is as long as `whole`."""
    first, last = (min(BAR, round(BAR * value / whole)) for value in (start, end))
    return " " * first + "[cyan]" + "█" * max(last - first, 1) + "[/]"


def show_plan(console: Console, plan: Plan, lengths: Lengths) -> None:
    """The choices with their reasons, the speed, and where the job does not fit what would help."""
    console.print("[bold cyan]plan[/]")
    for choice, why in plan.reasons:
        console.print(f"  {escape(choice)}  [dim]{escape(why)}[/]")
    if plan.tokens_per_second is not None:
        job = f", {duration(plan.seconds)} for the job" if plan.seconds is not None else ""
        assumed = " if all samples are that long" if lengths.assumed else ""
        console.print(f"  about {_rounded(plan.tokens_per_second)} tokens/s{job}{assumed}")
    if plan.fits:
        return
    console.print("[bold red]does not fit[/]; each of these alone would do:")
    for cure in plan.cures:
        console.print(f"  {escape(cure)}")


def _rounded(tokens_per_second: float) -> str:
    """Two digits: an expected speed is not known better."""
    return f"{float(f'{tokens_per_second:.2g}'):,.0f}"
