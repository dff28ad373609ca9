"""`evaluate`: the loss of a model on its job's own rows, beside its base model's.

Until Unsloth is imported, what needs transformers is imported inside functions.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gptoss_ft.data.entries import open_entries
from gptoss_ft.data.intake import check_first_rows
from gptoss_ft.errors import ExportError
from gptoss_ft.inference.held_out import on_trained_rows, refuse_trained_rows, without_held_out
from gptoss_ft.reporting import narration
from gptoss_ft.reporting.console import make_console
from gptoss_ft.reporting.evaluation_report import EVALUATION, EvaluationReport, show_evaluation
from gptoss_ft.reporting.files import refuse_unwritable, write_json
from gptoss_ft.runtime import fresh_environment, prepare_environment
from gptoss_ft.subject import Subject, in_memory

if TYPE_CHECKING:
    from gptoss_ft.data.storage import Split


def evaluate(subject: Subject, split: "Split", max_samples: int | None, output: Path | None) -> EvaluationReport:
    """Measure a model on the samples of its job, all or the first `max_samples`; show the table, and write it to the
    JSON file `output`. Raises `JobError`."""
    console = make_console()
    if output is not None:
        refuse_unwritable(output)
    prepare_environment()
    if split == "eval":
        refuse_trained_rows(subject)
    elif (on_own := on_trained_rows(subject)).job != subject.job:
        console.print("[dim]the training rows are those of the model's own job, not of the config[/]")
        subject = on_own
    entries = open_entries(subject.job)
    check_first_rows(entries)
    with in_memory(subject, console) as ready:
        from gptoss_ft.data.prepare import prepare
        from gptoss_ft.inference.evaluate import evaluate_split, require_held_out

        with narration.preparing(console) as progress:
            data = prepare(subject.job, entries, ready.tokenizer, progress)
        if split == "eval":
            require_held_out(data, without_held_out(subject))
        there = (data.eval if split == "eval" else data.train).num_rows
        narration.show_evaluating(console, min(there, max_samples or there))
        report = evaluate_split(ready.model, ready.tokenizer, data, subject.job, subject.name, split, max_samples)
    show_evaluation(console, report)
    if output is not None:
        write_json(output, report.as_facts())
    return report


def loss_in_child(arguments: Sequence[str]) -> float:
    """The loss, in nats a token, that `evaluate` with these arguments prints, from a process of its own, which gives
    all of its memory back. Raises `ExportError` with that process's words when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / EVALUATION
        command = [sys.executable, "-m", "gptoss_ft", "evaluate", *arguments, "--output", str(file)]
        child = subprocess.run(command, env=fresh_environment(), capture_output=True, text=True)
        if child.returncode:
            raise ExportError(f"evaluate {' '.join(arguments)} failed: {child.stderr.strip()}")
        return float(json.loads(file.read_text(encoding="utf-8"))["total"]["loss"])
