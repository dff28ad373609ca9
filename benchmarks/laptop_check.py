"""Does configs/laptop.yaml teach a real model its habit, and does the habit survive the merge? Through the commands
that a user gives, without GPU and network.

    python benchmarks/laptop_check.py --model DIR --work DIR

`--model` is the folder that benchmarks/real_weights.py makes, `--work` a folder for outputs and caches. Only
model.name differs from the recipe. Before and after training the model is asked ten questions that are not in the
data, and takes the likeliest token each time. What must hold:

- the loss of the held-out rows falls by at least a third;
- no answer ends with a line "In one line: ..." before, at least nine of ten do after;
- the merged model gives the adapter's answers, word for word. Both are in float32 for that: in bfloat16 a merged
  weight is rounded once more, two tokens that are nearly as likely change places, and 3 of 10 answers were the same.

Prints a table and one JSON line; ends with status 1 when something does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPE = REPOSITORY / "configs" / "laptop.yaml"
DATA = "configs/data/one_line_summary.jsonl"
LEAST_FALL = 1 / 3
LEAST_WITH_HABIT = 9
# Stands at the end of an answer that reached its longest length.
CUT = "\n…"
HABIT = re.compile(r"\nIn one line: [^\n]+$")
QUESTIONS = (
    "What is a comet?",
    "Who was Isaac Newton?",
    "What is a string in programming?",
    "How do I wash a wool sweater?",
    "What is seven times eight?",
    "Why do owls hunt at night?",
    "What is a guitar?",
    "How do I keep my bike from rusting?",
    "What is the capital of Spain?",
    "Why do we need salt in food?",
)


@dataclass(frozen=True)
class Check:
    """One line of the table: what was found, what is wanted, and whether that holds."""

    name: str
    found: str
    wanted: str
    holds: bool


@dataclass(frozen=True)
class Runner:
    """Gives the project's commands for the recipe with the model in `model`; files go to `work`."""

    model: Path
    work: Path

    @property
    def output(self) -> Path:
        return self.work / "outputs" / "laptop"

    def command(self, name: str, *arguments: str) -> float:
        """Run a command, its words on the screen; returns its seconds. `SystemExit` when it fails."""
        print(f"== {name} {' '.join(arguments)}", flush=True)
        started = time.monotonic()
        command = [sys.executable, str(REPOSITORY / "train.py"), name, "--config", str(RECIPE)]
        child = subprocess.run(
            [*command, "--set", f"model.name={self.model}", *arguments],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "GPTOSS_FT_OUTPUT_ROOT": str(self.work / "outputs"),
                "GPTOSS_FT_CACHE": str(self.work / "cache"),
                "HF_HUB_OFFLINE": "1",
            },
            stdin=subprocess.DEVNULL,
        )
        if child.returncode:
            raise SystemExit(f"laptop_check: {name} ended with status {child.returncode}")
        return time.monotonic() - started

    def answers(self, model: str, file: str, *overrides: str) -> list[str]:
        """The answers of `model` (base, final_model, merged_model) to `QUESTIONS`, in their order."""
        questions, output = self.work / "questions.jsonl", self.work / file
        questions.write_text("".join(json.dumps({"prompt": question}) + "\n" for question in QUESTIONS))
        self.command(
            "generate", "--model", model, "--batch", str(questions), "--output", str(output), "--batch-size", "1",
            "--temperature", "0", "--max-new-tokens", "160", *overrides,
        )  # fmt: skip
        rows = read_rows(output)
        # One that was cut has no end to look at, and is still compared by its words.
        return [(row["answer"] or "") + (CUT if row["stop"] == "length" else "") for row in rows]


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def refuse_trained_questions() -> None:
    """`ValueError` when a question is in the recipe's data."""
    asked = {row["messages"][0]["content"].lower() for row in read_rows(REPOSITORY / DATA)}
    if known := [question for question in QUESTIONS if question.lower() in asked]:
        raise ValueError(f"not held out: {known}")


def with_habit(answers: list[str]) -> int:
    """How many answers end with the line. One that was cut off is the empty text, and has none."""
    return sum(HABIT.search(answer.rstrip()) is not None for answer in answers)


def check(runner: Runner) -> tuple[list[Check], dict[str, Any]]:
    """Run everything; returns the table's lines, and the figures."""
    seconds = runner.command("train", "--restart")
    evaluation = runner.work / "evaluation.json"
    runner.command("evaluate", "--model", "final_model", "--output", str(evaluation))
    total = json.loads(evaluation.read_text(encoding="utf-8"))["total"]
    before, after = total["base_loss"], total["loss"]

    habit_before = with_habit(runner.answers("base", "before.jsonl"))
    habit_after = with_habit(runner.answers("final_model", "after.jsonl"))

    exact = ("--set", "model.dtype=float32")
    runner.command("merge", "--dtype", "float32", "--overwrite")
    adapter = runner.answers("final_model", "adapter.jsonl", *exact)
    merged = runner.answers("merged_model", "merged.jsonl", *exact)
    same = sum(one == other for one, other in zip(adapter, merged, strict=True))

    asked = len(QUESTIONS)
    fall = 1 - after / before
    checks = [
        Check("loss of held-out rows", f"{before:.3f} → {after:.3f} (−{fall:.0%})", "−33 %", fall >= LEAST_FALL),
        Check("habit before", f"{habit_before} of {asked}", "0", habit_before == 0),
        Check("habit after", f"{habit_after} of {asked}", f"{LEAST_WITH_HABIT}", habit_after >= LEAST_WITH_HABIT),
        Check("merged answers as the adapter", f"{same} of {asked}", f"{asked}", same == asked),
    ]
    figures = {
        "train_seconds": round(seconds, 1),
        "loss_before": before,
        "loss_after": after,
        "habit_before": habit_before,
        "habit_after": habit_after,
        "merged_equal": same,
        "questions": asked,
    }
    return checks, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for outputs and caches")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    refuse_trained_questions()
    checks, figures = check(Runner(options.model.resolve(), options.work.resolve()))
    for line in checks:
        print(f"{'holds ' if line.holds else 'FAILED'}  {line.name:<30} {line.found:<28} wanted {line.wanted}")
    print(json.dumps(figures))
    if not all(line.holds for line in checks):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
