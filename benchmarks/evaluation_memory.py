"""What evaluation takes of the GPU's memory beside a training step, at the job's full sample length.

    python benchmarks/evaluation_memory.py --config configs/multilingual_thinking.yaml \\
        --set model.max_seq_length=8192 --set training.optim=adamw_8bit

Trains two steps on random rows of exactly `model.max_seq_length` tokens, without a plan, evaluates two such rows, whose
second half is trained, as `training.eval_steps` does, and then computes one of them in Unsloth's own evaluation mode.
Prints one JSON line: the peak of each phase in GiB (on a GPU what CUDA reserved, each from a fresh start; on a CPU the
process's peak resident memory so far), null where the memory ran out, and the seconds of the evaluation.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from our_trainer import load, make_trainer

from gptoss_ft.config import JobConfig, load_job_config
from gptoss_ft.reporting.console import quiet_libraries
from gptoss_ft.reporting.memory_report import peak_gib, start_measuring
from gptoss_ft.runtime import Device, find_device, import_unsloth, prepare_environment

ROWS = 2
STEPS = 2


def random_rows(rows: int, length: int, vocabulary: int) -> pa.Table:
    """`rows` rows of `length` tokens below `vocabulary` (int32), the second half of them trained."""
    ids = np.random.default_rng(0).integers(0, vocabulary, (rows, length), np.int32)
    labels = np.where(np.arange(length) < length // 2, np.int32(-100), ids)
    return pa.table({"input_ids": list(ids), "labels": list(labels)})


def peak_of(phase: Callable[[], object], device: Device) -> float | None:
    """The peak of `phase` in GiB; None where the GPU's memory ran out."""
    import torch

    from gptoss_ft.errors import MachineError

    start_measuring(device)
    try:
        phase()
    except (torch.OutOfMemoryError, MachineError):
        return None
    return round(peak_gib(device), 3)


def unsloths_own(model: Any, row: pa.Table) -> None:
    """One row through the model in evaluation mode, as Unsloth leaves it; one position's logits."""
    import torch

    ids = torch.tensor(row["input_ids"][:1].to_pylist(), device=model.device)
    model.eval()
    with torch.no_grad(), torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32):
        model(input_ids=ids, use_cache=False, logits_to_keep=1)


def compare(job: JobConfig, device: Device, folder: Path) -> dict[str, Any]:
    """Train, evaluate, and evaluate as Unsloth does; the peaks by phase. After `import_unsloth`."""
    from gptoss_ft.data.channels import ChannelReader
    from gptoss_ft.inference.evaluate import measure
    from gptoss_ft.planning.choice import as_configured, effective_batch
    from gptoss_ft.planning.gpus import GpuMemory
    from gptoss_ft.planning.lengths import Lengths

    length, micro_batch = job.model.max_seq_length, job.training.per_device_train_batch_size
    loaded = load(job, device, offload_embedding=False)
    model, tokenizer, number = loaded.model, loaded.tokenizer, effective_batch(job)
    rows = random_rows(ROWS, length, min(len(tokenizer), model.config.get_text_config().vocab_size))
    lengths = np.full(STEPS * number, length)
    trained = Lengths.all_of(length, number)
    plan = as_configured(job, None, trained, GpuMemory(device.name, device.total_gib), "measured without one")
    trainer = make_trainer(loaded, loaded.random_rows(lengths), job, folder, plan)
    peaks = {"training_gib": peak_of(trainer.train, device)}
    # What the optimizer holds stays, as it does while a run evaluates.
    started = time.monotonic()
    peaks["evaluation_gib"] = peak_of(
        lambda: measure(model, rows[:ROWS], ChannelReader(tokenizer), micro_batch), device
    )
    seconds = round(time.monotonic() - started, 2)
    peaks["unsloths_evaluation_gib"] = peak_of(lambda: unsloths_own(model, rows), device)
    return {"device": device.name, "length": length, "micro_batch": micro_batch, **peaks, "evaluation_seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    fixed = {
        "max_steps": STEPS, "num_train_epochs": "", "eval_steps": "", "early_stopping_patience": "", "save_steps": 9,
    }  # fmt: skip
    overrides = [
        "performance.plan=off",
        *arguments.overrides,
        *(f"training.{key}={value}" for key, value in fixed.items()),
    ]
    job = load_job_config(arguments.config, [*overrides, "tracking.report_to=none"]).job
    prepare_environment()
    device = find_device(job.model.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with quiet_libraries(folder / "libraries.log"):
            import_unsloth(device)
            found = compare(job, device, folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
