"""The lines of a run: one for each logging step on the screen, and the same in log.jsonl."""

import json
from dataclasses import asdict, dataclass

from rich.console import Console

from gptoss_ft.reporting.console import duration
from gptoss_ft.reporting.files import write_json_lines
from gptoss_ft.reporting.output_folder import OutputFolder

NAME = "log.jsonl"


@dataclass(frozen=True)
class StepRecord:
    """One logged step. Loss in nats a token, mean over the steps since the last record; tokens/s of the same
    span; `grad_norm` None where it was not finite; `gib` the peak in use so far; `seconds` since training started,
    `seconds_left` at the present speed."""

    step: int
    steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float | None
    tokens: int
    tokens_per_second: float
    gib: float
    seconds: float
    seconds_left: float


@dataclass(frozen=True)
class EvalRecord:
    """One evaluation after step `step`: the loss of the held-out rows in nats a token, over `eval_tokens` of them."""

    step: int
    eval_loss: float
    eval_tokens: int


@dataclass(frozen=True)
class SkipRecord:
    """Step `step` was left out, which is why: its loss or gradient was not finite, in these rows."""

    step: int
    skipped: str


Record = StepRecord | EvalRecord | SkipRecord


class StepLog:
    """Writes log.jsonl and prints the table's lines. A run that continues keeps the records up to its step."""

    def __init__(self, output: OutputFolder, console: Console) -> None:
        self._path = output.path / NAME
        self._console = console
        self._has_header = False
        self.records: list[StepRecord] = []
        kept: list[Record] = []
        if output.resume_step and self._path.exists():
            earlier = map(_read, self._path.read_text(encoding="utf-8").splitlines())
            kept = [record for record in earlier if record and record.step <= output.resume_step]
            self.records = [record for record in kept if isinstance(record, StepRecord)]
        write_json_lines(self._path, map(asdict, kept))

    def add_evaluation(self, record: EvalRecord) -> None:
        self._write(record)
        self._console.print(f"  {'':>11}  eval [bold]{record.eval_loss:.4f}[/]")

    def add_skip(self, record: SkipRecord) -> None:
        self._write(record)
        self._console.print(f"[yellow]step {record.step} is skipped:[/] ", end="")
        self._console.print(record.skipped, markup=False)

    def warn(self, words: str) -> None:
        """Only on the screen."""
        self._console.print(f"[yellow]warning:[/] {words}")

    def _write(self, record: Record) -> None:
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(_line(record))

    def add(self, record: StepRecord) -> None:
        self.records.append(record)
        self._write(record)
        if not self._has_header:
            self._console.print(
                f"  [dim]{'step':>11}  {'loss':>8}  {'learning rate':>13}  {'grad norm':>9}  {'tokens/s':>9}  "
                f"{'GiB':>6}  left[/]"
            )
            self._has_header = True
        place = f"{record.step}/{record.steps}"
        norm = "none" if record.grad_norm is None else f"{record.grad_norm:.3f}"
        self._console.print(
            f"  {place:>11}  [bold]{record.loss:8.4f}[/]  {record.learning_rate:13.2e}  {norm:>9}  "
            f"{record.tokens_per_second:9,.0f}  {record.gib:6.2f}  {duration(record.seconds_left)}"
        )


def _line(record: Record) -> str:
    return json.dumps(asdict(record)) + "\n"


def _read(line: str) -> Record | None:
    try:
        content = json.loads(line)
        kind = EvalRecord if "eval_loss" in content else SkipRecord if "skipped" in content else StepRecord
        record: Record = kind(**content)
        return record
    except (TypeError, ValueError):
        # A kill in the middle of a write leaves half a line.
        return None
