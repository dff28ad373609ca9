"""What is trained, shown to a person before anything is: the counts, the lengths, and samples with what is learned."""

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import JobConfig
from gptoss_ft.data.storage import PreparedData, Split
from gptoss_ft.data.summary import Summary
from gptoss_ft.errors import OutputError, is_disk_full
from gptoss_ft.reporting.console import show_section
from gptoss_ft.reporting.preview_numbers import Histogram, bar, channel_rows, counts, histogram, plan
from gptoss_ft.reporting.preview_samples import Piece, SampleReader

TEMPLATE = "preview.html.jinja"

TRAINED, TRAINED_CONTROL = "bold black on green", "bold black on bright_cyan"
CONTEXT, CONTEXT_CONTROL = "dim", "cyan"


def show_preview(
    console: Console,
    data: PreparedData,
    tokenizer: PreTrainedTokenizerBase,
    job: JobConfig,
    samples: int = 3,
    split: Split = "train",
) -> None:
    """Print the counts, the lengths, the length of the run, and the first `samples` of a split: what is trained in
    colour, or between ⟦ and ⟧ where there is none."""
    summary = data.summary
    show_section(console, "data as the model sees it", counts(summary))
    _show_channels(console, summary)
    _show_histogram(console, histogram(summary))
    show_section(console, "run", plan(summary, job))
    table = data.train if split == "train" else data.eval
    name = "training" if split == "train" else "evaluation"
    shown = SampleReader(tokenizer).samples(table, summary, samples)
    console.print(f"[bold cyan]{name}: {len(shown):,} of {table.num_rows:,} samples[/]")
    if shown:
        _show_legend(console)
    for sample in shown:
        console.print()
        console.print(Text(sample.heading, "bold"))
        for passage in sample.passages:
            console.print(Text(f"── {passage.heading}", "cyan"))
            console.print(_in_colour(passage.pieces) if _has_colour(console) else Text(in_brackets(passage.pieces)))


def _show_channels(console: Console, summary: Summary) -> None:
    for name, split in (("training", summary.train), ("evaluation", summary.eval)):
        if not split.trained_tokens:
            continue
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        table.add_column(f"  {name}", style="dim")
        table.add_column("trained tokens", justify="right")
        table.add_column("share", justify="right")
        for channel, number, share in channel_rows(split):
            table.add_row(f"  {channel}", number, share)
        console.print(table)


def _show_histogram(console: Console, lengths: Histogram) -> None:
    console.print(f"[bold cyan]{lengths.title}[/]")
    labels = [bin_.label for bin_ in lengths.bins]
    width, digits = max(map(len, labels)), len(f"{lengths.most:,}")
    for label, bin_ in zip(labels, lengths.bins, strict=True):
        marks = f"  ← {', '.join(bin_.marks)}" if bin_.marks else ""
        blocks = f" [green]{bar(bin_.samples / lengths.most)}[/]" if bin_.samples else ""
        console.print(f"  [dim]{label:>{width}}[/]  {bin_.samples:>{digits},}{blocks}{marks}")


def _show_legend(console: Console) -> None:
    if not _has_colour(console):
        console.print("  ⟦trained⟧  context  ⟦<|end|>→<|return|>⟧ in the context the first, learned as the second")
        return
    legend = Text("  ")
    for words, style in (
        ("trained", TRAINED),
        ("trained control token", TRAINED_CONTROL),
        ("context", CONTEXT),
        ("control token", CONTEXT_CONTROL),
        ("<|end|>→<|return|>", TRAINED_CONTROL),
    ):
        legend.append(words, style).append("  ")
    console.print(legend.append("in the context the first, learned as the second", "dim"))


def _has_colour(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def _in_colour(pieces: Sequence[Piece]) -> Text:
    text = Text()
    for style, alike in groupby(pieces, _style):
        text.append("".join(map(_with_learned, alike)), style)
    return text


def _style(piece: Piece) -> str:
    if piece.is_trained:
        return TRAINED_CONTROL if piece.is_control else TRAINED
    return CONTEXT_CONTROL if piece.is_control else CONTEXT


def in_brackets(pieces: Sequence[Piece]) -> str:
    """The pieces as plain text, trained stretches between ⟦ and ⟧; a gap belongs to the stretch that it is in."""
    parts: list[str] = []
    is_open = False
    for piece in pieces:
        if piece.ids and piece.is_trained != is_open:
            parts.append("⟧" if is_open else "⟦")
            is_open = not is_open
        parts.append(_with_learned(piece))
    return "".join(parts) + ("⟧" if is_open else "")


def _with_learned(piece: Piece) -> str:
    return f"{piece.text}→{piece.learned}" if piece.learned else piece.text


def write_html(
    path: Path,
    data: PreparedData,
    tokenizer: PreTrainedTokenizerBase,
    job: JobConfig,
    samples: int = 20,
    split: Split = "train",
) -> None:
    """Write the same as one page that needs nothing else, with the first `samples` samples of a split. Raises
    `OutputError` where it cannot be written."""
    summary = data.summary
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        counts=counts(summary),
        channels=[("training", channel_rows(summary.train)), ("evaluation", channel_rows(summary.eval))],
        histogram=histogram(summary),
        plan=plan(summary, job),
        samples=SampleReader(tokenizer).samples(getattr(data, split), summary, samples),
        total=getattr(summary, split).samples,
    )
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(page, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        if is_disk_full(error):
            raise
        raise OutputError(
            f"{path} cannot be written: {error.strerror}",
            "Name a file in a folder that can be written to.",
        ) from None
