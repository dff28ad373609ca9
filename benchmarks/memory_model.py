"""Estimated against measured peaks of GPU memory: how well `plan` knows a run before it starts.

    python benchmarks/memory_model.py [benchmarks/measured_peaks.json]

Prints a line a run and the largest deviations. A new measurement is a new entry of `runs` in that file; where a line is
out of bounds (10 % over, 5 % under), the coefficients in gptoss_ft/planning/calibration.py are refitted.
"""

import sys
from pathlib import Path

from rich.table import Table

from gptoss_ft.planning.residuals import read_measured, residuals
from gptoss_ft.reporting.console import make_console

PEAKS = Path(__file__).with_name("measured_peaks.json")


def main() -> None:
    found = residuals(read_measured(Path(sys.argv[1]) if len(sys.argv) > 1 else PEAKS))
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in ("row tokens", "recomputed", "measured", "estimated", "%"):
        table.add_column(name, justify="right")
    table.add_column("source", style="dim")
    for run, estimated, relative in found:
        table.add_row(
            f"{run.row_tokens:,}", str(run.checkpointed_layers), f"{run.peak_reserved_gib:.2f}", f"{estimated:.2f}",
            f"{100 * relative:+.1f}", run.source,
        )  # fmt: skip
    console = make_console()
    console.print(table)
    deviations = [100 * one.relative for one in found]
    console.print(f"{len(found)} runs, from {min(deviations):+.1f} % to {max(deviations):+.1f} %; GiB reserved")


if __name__ == "__main__":
    main()
