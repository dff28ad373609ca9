"""evaluation.json and its table: the loss on held-out rows by channel, base model against adapter."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from gptoss_ft.reporting.console import counted

if TYPE_CHECKING:  # this imports transformers, which Unsloth must come before
    from gptoss_ft.inference.evaluate import Loss, Measured

EVALUATION = "evaluation.json"
TOTAL = "total"


@dataclass(frozen=True)
class EvaluationReport:
    """What was measured of `model` on `samples` samples of `split`; `base` is None where there is no adapter to take
    off."""

    model: str
    split: str
    samples: int
    measured: "Measured"
    base: "Measured | None" = None

    def as_facts(self) -> dict[str, object]:
        """What evaluation.json holds: losses in nats a token, for all trained tokens and by channel."""
        facts = {name: _facts(measured, base) for name, measured, base in self.rows()}
        return {
            "model": self.model,
            "split": self.split,
            "samples": self.samples,
            TOTAL: facts.pop(TOTAL),
            "channels": facts,
        }

    def rows(self) -> "Iterator[tuple[str, Loss, Loss | None]]":
        """Name, loss and base model's loss: of all trained tokens, then of each channel."""
        yield TOTAL, self.measured.total, self.base.total if self.base else None
        for channel, loss in self.measured.channels.items():
            yield channel, loss, self.base.channels[channel] if self.base else None


def _facts(measured: "Loss", base: "Loss | None") -> dict[str, float]:
    facts: dict[str, float] = {
        "tokens": measured.tokens,
        "loss": round(measured.mean, 6),
        "perplexity": round(measured.perplexity, 4),
    }
    if base is not None:
        facts |= {
            "base_loss": round(base.mean, 6),
            "base_perplexity": round(base.perplexity, 4),
            "change_percent": round(_change(measured, base), 2),
        }
    return facts


def _change(measured: "Loss", base: "Loss") -> float:
    """Of the loss, in percent of the base model's."""
    return 100 * (measured.mean / base.mean - 1)


def show_evaluation(console: Console, report: EvaluationReport) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    names = ["base loss", "perplexity"] * (report.base is not None) + ["loss", "perplexity"]
    table.add_column("  trained tokens", style="dim")
    for name in ("number", *names, *["change %"] * (report.base is not None)):
        table.add_column(name, justify="right")
    for name, measured, base in report.rows():
        cells = [f"  {name}", f"{measured.tokens:,}"]
        if base is not None:
            cells += [f"{base.mean:.4f}", f"{base.perplexity:,.2f}"]
        cells += [f"{measured.mean:.4f}", f"{measured.perplexity:,.2f}"]
        if base is not None:
            # Adding zero takes the sign off a negative zero.
            cells.append(f"{round(_change(measured, base), 1) + 0.0:+.1f}")
        table.add_row(*cells)
    samples = counted(report.samples, "held-out sample" if report.split == "eval" else "training sample")
    console.print(f"[bold cyan]evaluation[/] of {report.model} on {samples}, loss in nats a token")
    console.print(table)
