"""`evaluation.prompts`: what the model answers before and after training, kept in the output folder's samples.jsonl.

Before training means without the adapter: the base model.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from gptoss_ft.config import JobConfig
from gptoss_ft.inference.answers import row_of
from gptoss_ft.inference.generate import Sampling, make_generator
from gptoss_ft.inference.prompts import ask
from gptoss_ft.inference.screen import WIDTH_SIDE_BY_SIDE
from gptoss_ft.reporting.console import visible
from gptoss_ft.reporting.files import write_json_lines

SAMPLES = "samples.jsonl"

When = Literal["before", "after"]
Row = dict[str, Any]


def samples_before(model: Any, tokenizer: PreTrainedTokenizerBase, job: JobConfig, folder: Path) -> None:
    """Ask the base model, unless `folder`/samples.jsonl holds its answers to these questions already."""
    kept = [row for row in _read(folder) if row["when"] == "before"]
    if _questions_of(kept) == _questions(job):
        return
    with model.disable_adapter():
        _write(folder, _asked("before", model, tokenizer, job))


def samples_after(model: Any, tokenizer: PreTrainedTokenizerBase, job: JobConfig, folder: Path) -> list[Row]:
    """Ask the trained model, keep its answers beside those of before, and return all rows."""
    kept = [row for row in _read(folder) if row["when"] == "before"]
    rows = [*kept, *_asked("after", model, tokenizer, job)]
    _write(folder, rows)
    return rows


def sample_answers(model: Any, tokenizer: PreTrainedTokenizerBase, job: JobConfig) -> list[Row]:
    """The answers to `evaluation.prompts` at each of its efforts, one row each: `prompt`, `effort`, `analysis`,
    `answer`, `calls`, `tokens`, `stop`. The model is in its training mode again afterwards, where it was before."""
    wanted = job.evaluation
    generator = make_generator(model, tokenizer, job)
    questions = [
        ask(prompt, wanted.system).at(effort) for prompt in wanted.prompts for effort in wanted.reasoning_efforts
    ]
    sampling = Sampling(wanted.temperature, wanted.top_p, wanted.max_new_tokens, job.training.seed)
    with _mode_kept(model):
        answers, _ = generator.answer(questions, sampling)
    return [row_of(question, answer) for question, answer in zip(questions, answers, strict=True)]


def _asked(when: When, model: Any, tokenizer: PreTrainedTokenizerBase, job: JobConfig) -> list[Row]:
    return [{"when": when, **row} for row in sample_answers(model, tokenizer, job)]


@contextmanager
def _mode_kept(model: Any) -> Iterator[None]:
    """Answering puts the model into inference mode; training finds it as it left it."""
    from unsloth import FastLanguageModel

    training = {name: module.training for name, module in model.named_modules()}
    checkpointing = {
        name: module.gradient_checkpointing
        for name, module in model.named_modules()
        if hasattr(module, "gradient_checkpointing")
    }
    try:
        yield
    finally:
        FastLanguageModel.for_training(model)
        for name, module in model.named_modules():
            module.training = training[name]
            if name in checkpointing:
                module.gradient_checkpointing = checkpointing[name]


def _questions(job: JobConfig) -> list[tuple[str, str]]:
    wanted = job.evaluation
    return [(prompt, effort) for prompt in wanted.prompts for effort in wanted.reasoning_efforts]


def _questions_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return [(row["prompt"], row["effort"]) for row in rows]


def _read(folder: Path) -> list[Row]:
    path = folder / SAMPLES
    if not path.is_file():
        return []
    # Not splitlines, which also splits where a character of an answer says so.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _write(folder: Path, rows: Sequence[Row]) -> None:
    write_json_lines(folder / SAMPLES, rows)


def show_samples(console: Console, rows: Sequence[Row]) -> None:
    """The answers before and after training, of each question side by side."""
    asked: dict[tuple[str, str], dict[When, Row]] = {}
    for row in rows:
        asked.setdefault((row["prompt"], row["effort"]), {})[row["when"]] = row
    console.print("[bold cyan]answers before and after training[/]")
    for (prompt, effort), said in asked.items():
        console.out(visible(f"  {prompt}") + f"  (reasoning effort {effort})", style="bold", highlight=False)
        if console.is_terminal and console.width >= WIDTH_SIDE_BY_SIDE:
            table = Table(expand=True)
            for when in said:
                table.add_column(when, ratio=1, overflow="fold")
            table.add_row(*map(_in_words, said.values()))
            console.print(table, soft_wrap=False)
            continue
        for when, row in said.items():
            console.out(f"  {when}", style="cyan", highlight=False)
            console.out("    " + _in_words(row).plain.replace("\n", "\n    "), highlight=False)


def _in_words(row: Row) -> Text:
    """A row's answer, after its thinking where there is some."""
    text = Text()
    if row["analysis"] is not None:
        text.append(f"{visible(row['analysis'])}\n", "dim")
    calls = "".join(f"call functions.{call['name']}({call['arguments']})\n" for call in row["calls"])
    text.append(visible((row["answer"] or "") + calls + row.get("unread", "")))
    text.append(f"\n{row['tokens']:,} tokens, ended by {row['stop']}", "dim")
    return text
