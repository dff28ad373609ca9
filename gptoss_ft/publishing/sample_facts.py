"""Facts of a run that never was, with all that a run can know: a card's template is tried on them before training."""

from dataclasses import asdict

from gptoss_ft.publishing.run_facts import RunFacts
from gptoss_ft.reporting.manifest import PACKAGES
from gptoss_ft.reporting.memory_report import MemoryReport
from gptoss_ft.reporting.step_log import StepRecord

SPLIT = {
    "samples": 90, "rows": 90, "tokens": 9000, "trained_tokens": 4000, "plain_texts": 0,
    "channels": {"analysis": 3000, "final": 1000}, "efforts": {"medium": 90},
}  # fmt: skip
MODEL = {
    "repository": "ann/base", "commit": "0123abc", "total": 1000, "trainable": 10, "expert": 5, "in_4bit": True,
}  # fmt: skip
CODE = {"gptoss_ft": "1.0", "commit": "0123abc", "image": None, "lock_sha256": None}
MEMORY = MemoryReport(
    device="GPU", total_gib=24, before_training_gib=12, peak_gib=16, peak_allocated_gib=15, training_gib=4,
    before_training_percent=50, peak_percent=66.7, training_percent=16.7, run_seconds=60, run_minutes=1,
)  # fmt: skip
STEP = StepRecord(
    step=1, steps=1, epoch=1, loss=2.5, learning_rate=2e-4, grad_norm=1, tokens=100, tokens_per_second=10, gib=16,
    seconds=10, seconds_left=0,
)  # fmt: skip
LOSS = {
    "tokens": 1000, "loss": 1.25, "perplexity": 3.49, "base_loss": 2.5, "base_perplexity": 12.18,
    "change_percent": -50.0,
}  # fmt: skip
ANSWER = {
    "prompt": "Why?", "effort": "medium", "analysis": "They ask.", "answer": "Because.",
    "calls": [{"name": "search", "arguments": "{}"}], "tokens": 9, "stop": "return",
}  # fmt: skip


def sample_facts() -> RunFacts:
    """One step, held-out rows measured with the base model as well, one question, and the memory of a GPU."""
    return RunFacts(
        manifest={
            "data": {"rows": 100, "train": SPLIT, "eval": SPLIT},
            "model": MODEL,
            "code": CODE,
            "versions": dict.fromkeys(("python", *PACKAGES), "1.0"),
        },
        memory=asdict(MEMORY),
        evaluation={"model": "final_model", "split": "eval", "samples": 10, "total": LOSS, "channels": {"final": LOSS}},
        records=[asdict(STEP)],
        answers=[{"when": when, **ANSWER} for when in ("before", "after")],
    )
