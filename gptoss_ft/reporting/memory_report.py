"""memory_report.json and its table: what the GPU's memory went to, or the process's on a CPU."""

from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gptoss_ft.reporting.files import write_json
from gptoss_ft.runtime import GIB, Device, peak_resident_gib, release_cached_memory


@dataclass(frozen=True)
class MemoryReport:
    """GiB and percent of the device's memory. On a GPU what the CUDA allocator reserved; on a CPU the peak
    resident memory of the process, of which the part before training is its peak until then. `peak_allocated` is
    the part of the peak that tensors took."""

    device: str
    total_gib: float
    before_training_gib: float
    peak_gib: float
    peak_allocated_gib: float
    training_gib: float
    before_training_percent: float
    peak_percent: float
    training_percent: float
    run_seconds: float
    run_minutes: float


def reserved_gib(device: Device) -> float:
    """Memory in use now: reserved by CUDA, or the peak resident memory on a CPU."""
    if device.kind == "cpu":
        return peak_resident_gib()
    import torch

    return torch.cuda.memory_reserved() / GIB


def peak_gib(device: Device) -> float:
    """The most that was in use since measuring started."""
    if device.kind == "cpu":
        return peak_resident_gib()
    import torch

    return torch.cuda.max_memory_reserved() / GIB


def peak_allocated_gib(device: Device) -> float:
    """The most that tensors took at once: what is missing to the peak is the allocator's own reserve."""
    if device.kind == "cpu":
        return peak_resident_gib()
    import torch

    return torch.cuda.max_memory_allocated() / GIB


@dataclass(frozen=True)
class Baseline:
    """Where memory stood before training, and its peak until then, in GiB."""

    before_gib: float
    peak_gib: float


def start_measuring(device: Device) -> Baseline:
    """Start a new peak, so that what loading took for a moment is not counted as training's."""
    release_cached_memory(device)
    baseline = Baseline(reserved_gib(device), peak_gib(device))
    if device.kind == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    return baseline


def make_memory_report(device: Device, baseline: Baseline, seconds: float) -> MemoryReport:
    before = baseline.before_gib
    training = peak_gib(device) - before
    peak = max(baseline.peak_gib, peak_gib(device))

    def percent(gib: float) -> float:
        return round(100 * gib / device.total_gib, 2)

    return MemoryReport(
        device=device.name,
        total_gib=round(device.total_gib, 3),
        before_training_gib=round(before, 3),
        peak_gib=round(peak, 3),
        peak_allocated_gib=round(peak_allocated_gib(device), 3),
        training_gib=round(training, 3),
        before_training_percent=percent(before),
        peak_percent=percent(peak),
        training_percent=percent(training),
        run_seconds=round(seconds, 1),
        run_minutes=round(seconds / 60, 2),
    )


def write_memory_report(folder: Path, report: MemoryReport) -> None:
    write_json(folder / "memory_report.json", asdict(report))


def show_memory_report(console: Console, report: MemoryReport, device: Device) -> None:
    measure = "reserved" if device.kind == "cuda" else "resident"
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("  memory", style="dim")
    table.add_column("GiB", justify="right")
    table.add_column("%", justify="right")
    rows = (
        (f"peak {measure}", report.peak_gib, report.peak_percent),
        (f"{measure} before training", report.before_training_gib, report.before_training_percent),
        ("added by training", report.training_gib, report.training_percent),
    )
    for name, gib, percent in rows:
        table.add_row(f"  {name}", f"{gib:.2f}", f"{percent:.1f}")
    console.print(f"[bold cyan]memory[/] of {report.device}, {report.total_gib:.1f} GiB")
    console.print(table)
    console.print(f"  training took {report.run_seconds:.1f} s ({report.run_minutes:.2f} min)")
