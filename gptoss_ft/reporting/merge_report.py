"""What is told on the screen of a merge."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from gptoss_ft.reporting.console import counted, duration
from gptoss_ft.reporting.narration import SECONDS_BETWEEN_LINES
from gptoss_ft.runtime import GIB

if TYPE_CHECKING:  # this imports torch
    from gptoss_ft.merging.merge import MergeResult, Progress


@contextmanager
def merging(console: Console) -> "Iterator[Progress]":
    """What tells of the shards while they are written: a line that is written over on a terminal, and elsewhere one
    every half minute."""
    shown = time.monotonic()

    def progress(there: int, shards: int, written: int, size: int) -> None:
        nonlocal shown
        words = f"wrote {there} of {shards} files, {written / GIB:.1f} of {size / GIB:.1f} GiB"
        if console.is_terminal:
            status.update(words)
        elif time.monotonic() - shown > SECONDS_BETWEEN_LINES:
            console.print(f"  {words}")
            shown = time.monotonic()
        if there == shards:
            # What comes after has a line of its own.
            status.stop()

    with console.status("reading the weights") as status:
        yield progress


def show_merged(console: Console, result: "MergeResult") -> None:
    kept = f", {result.shards_kept:,} of them there from a merge that was interrupted" if result.shards_kept else ""
    size = f"{result.bytes / GIB:.1f} GiB in {counted(result.files, 'file')}{kept}"
    console.print(
        f"[bold green]done[/]: the merged model is in {result.folder}: {size}, after {duration(result.seconds)}, "
        f"with at most {result.peak_resident_gib:.1f} GiB in memory"
    )


def show_losses(console: Console, adapter: float, merged: float) -> None:
    """Both in nats a token, on the held-out rows."""
    console.print(
        f"[bold cyan]loss on held-out rows[/]  {adapter:.4f} of the adapter on what it was trained on, {merged:.4f} of "
        f"the merged model, {merged - adapter:+.4f}"
    )
