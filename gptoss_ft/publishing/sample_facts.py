"""Facts of a run that never was, with all that a job's run will know: a card's template is tried on them before
training."""

from dataclasses import asdict

from gptoss_ft.config import JobConfig
from gptoss_ft.publishing.run_facts import RunFacts
from gptoss_ft.reporting.manifest import PACKAGES
from gptoss_ft.reporting.memory_report import MemoryReport
from gptoss_ft.reporting.step_log import StepRecord
from gptoss_ft.runtime import evaluation_wanted

SPLIT = {
    "samples": 90, "rows": 90, "tokens": 9000, "trained_tokens": 4000, "plain_texts": 0,
    "channels": {"analysis": 3000, "final": 1000}, "efforts": {"medium": 90},
}  # fmt: skip
NO_SPLIT = {**dict.fromkeys(SPLIT, 0), "channels": {}, "efforts": {}}
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
EVALUATION = {"model": "final_model", "split": "eval", "samples": 10, "total": LOSS, "channels": {"final": LOSS}}
ANSWER = {
    "prompt": "Why?", "effort": "medium", "analysis": "They ask.", "answer": "Because.",
    "calls": [{"name": "search", "arguments": "{}"}], "tokens": 9, "stop": "return",
}  # fmt: skip


def sample_facts(job: JobConfig) -> RunFacts:
    """One step, and the memory of a GPU; where the job holds rows out, a loss on them and the base model's; where it
    asks something, one question."""
    holds_out = any(entry.eval or entry.eval_fraction or entry.prepared for entry in job.datasets)
    asks = bool(job.evaluation.prompts)
    return RunFacts(
        manifest={
            "data": {
                "rows": 100,
                "sources": [{"rows": 100, "kept": 90, "fingerprint": f"{entry.path}:"} for entry in job.datasets],
                "train": SPLIT,
                "eval": SPLIT if holds_out else NO_SPLIT,
            },
            "model": MODEL,
            "code": CODE,
            "versions": dict.fromkeys(("python", *PACKAGES), "1.0"),
        },
        memory=asdict(MEMORY),
        evaluation=EVALUATION if holds_out and evaluation_wanted() else None,
        records=[asdict(STEP)],
        answers=[{"when": when, **ANSWER} for when in ("before", "after")] if asks and evaluation_wanted() else [],
    )
