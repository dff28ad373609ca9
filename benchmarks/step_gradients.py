"""Whether the gradient of one optimizer step is the recipe's: of our plan, beside what padding does to it.

    python benchmarks/step_gradients.py --model 4BIT_DIR --effective-batch 4 --json gradients.json

The same rows, base model and adapter (A and B random: with B at zero all gradients of A would be) in two processes:
- recipe: Unsloth's notebook recipe, its samples one by one, and the same samples padded into one micro-batch
- ours: our trainer on the same samples, and again with the mask between documents switched off

Printed is each gradient's cosine with that of the recipe one by one, over all adapter weights as one vector, and its
length as a multiple of that one's. In bfloat16 with random routers padded samples do not agree perfectly either: ours
must agree no worse, and clearly better than without the mask.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from peers.contenders import REPOSITORY, Setting, job_of, run_module
from peers.measure import Task, read_task
from peers.rows import Rows
from training_speed import local, make_rows

REFERENCE = "recipe-one-by-one"
VARIANTS = (REFERENCE, "recipe-padded", "ours", "ours-without-mask")
B_STD = 0.02
PLAN = "plan.json"


def set_adapter(model: Any) -> None:
    """Give every adapter weight random values that its name alone decides: A as at the start, B not zero."""
    import torch

    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        values = torch.empty(weight.shape)
        if "lora_B" in name:
            values.normal_(0, B_STD, generator=generator)
        else:
            bound = 1 / math.sqrt(weight.shape[-1])
            values.uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            weight.copy_(values)


def keep_gradient(trainer: Any, folder: Path, variant: str) -> None:
    """Have the trainer write the gradient that its optimizer is about to use: VARIANT.npy, float32, the weights in the
    order of their names, which VARIANT.json holds."""
    import torch
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            weights = sorted((name, one) for name, one in kwargs["model"].named_parameters() if one.requires_grad)
            parts = [(torch.zeros_like(one) if one.grad is None else one.grad).float().flatten() for _, one in weights]
            np.save(folder / f"{variant}.npy", torch.cat(parts).cpu().numpy())
            (folder / f"{variant}.json").write_text(json.dumps([name for name, _ in weights]))

    trainer.add_callback(Keeper())


def recipe(task: Task, folder: Path) -> None:
    """Write the gradients of the recipe. Without any of this project's package."""
    import unsloth  # noqa: F401  # before transformers and trl
    from peers import notebook

    model, tokenizer = notebook.load(task)
    rows = Rows.load(Path(task.rows))
    for variant, micro_batch in zip(VARIANTS[:2], (1, task.effective_batch), strict=True):
        set_adapter(model)
        own = replace(task, micro_batch=micro_batch)
        trainer = notebook.make_trainer(model, tokenizer, rows, own, folder, max_grad_norm=0.0)
        keep_gradient(trainer, folder, variant)
        trainer.train()


def ours(task: Task, folder: Path) -> None:
    """Write the gradients of our trainer, as its plan computes the step, with the mask and without."""
    from our_trainer import benchmark_job, facts_of, load, make_trainer, summary_of

    from gptoss_ft.runtime import find_device, import_unsloth, prepare_environment

    job = benchmark_job(folder / "ours.yaml", ["training.max_grad_norm=0"], steps=1)
    prepare_environment()
    device = find_device(job.model.device)
    import_unsloth(device)
    from gptoss_ft.model.attention import blind_to_documents
    from gptoss_ft.model.repository import find_repository
    from gptoss_ft.planning.choice import effective_batch, make_plan
    from gptoss_ft.planning.gpus import GpuMemory
    from gptoss_ft.planning.lengths import Lengths
    from gptoss_ft.planning.shapes import read_shapes

    rows = Rows.load(Path(task.rows))
    lengths = Lengths.counted(summary_of(rows.lengths, job).train.lengths, effective_batch(job))
    # As for a GPU, which a run on a CPU has no plan of.
    gpu = GpuMemory(device.name, device.total_gib)
    plan = make_plan(job, read_shapes(job, find_repository(job.model)), lengths, gpu)
    loaded = load(job, device, plan.offload_embedding)
    contexts: tuple[Callable[[], AbstractContextManager[None]], ...] = (nullcontext, blind_to_documents)
    for variant, context in zip(VARIANTS[2:], contexts, strict=True):
        set_adapter(loaded.model)
        trainer = make_trainer(loaded, rows, job, folder, plan)
        keep_gradient(trainer, folder, variant)
        with context():
            trainer.train()
        (folder / PLAN).write_text(json.dumps(facts_of(trainer.plan)))


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return inner(one, other) / math.sqrt(inner(one, one) * inner(other, other))


def inner(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The inner product, in float64."""
    return float(np.einsum("i,i->", one, other, dtype=np.float64))


def compare(folder: Path) -> list[dict[str, Any]]:
    """Every variant's agreement with the reference."""
    names = {variant: json.loads((folder / f"{variant}.json").read_text()) for variant in VARIANTS}
    reference = np.load(folder / f"{REFERENCE}.npy")
    compared = []
    for variant in VARIANTS:
        if names[variant] != names[REFERENCE]:
            raise SystemExit(f"step_gradients: {variant} trains other weights than {REFERENCE}")
        gradient = np.load(folder / f"{variant}.npy")
        length = math.sqrt(inner(gradient, gradient) / inner(reference, reference))
        compared.append({"gradient": variant, "cosine": cosine(gradient, reference), "length": length})
    return compared


def run_side(side: str, task: Task, setting: Setting) -> None:
    told = setting.folder / f"{side}-task.json"
    task.save(told)
    name = "ours" if side == "ours" else "notebook"
    run_module(["step_gradients", "--side", side, str(told), str(setting.folder)], name, task, setting)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--effective-batch", type=int, default=4)
    parser.add_argument("--lengths", choices=["lognormal", "full"], default="lognormal")
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="folder of compile caches, kept; by default a new one")
    parser.add_argument("--timeout", type=float, default=280, metavar="SECONDS", help="of each of the two processes")
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        side = sys.argv.pop(2)
        sys.argv.remove("--side")
        task, folder = read_task()
        (recipe if side == "recipe" else ours)(task, folder)
        return
    arguments = parse_arguments()
    sys.path.insert(0, str(REPOSITORY))
    arguments.model, arguments.steps = local(arguments.model), 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_rows(arguments, folder)
        task = Task(
            arguments.model, str(folder / "rows.npz"), arguments.effective_batch, 1, arguments.longest, "all",
            arguments.device, None,
        )  # fmt: skip
        cache = (arguments.cache or folder / "cache").resolve()
        setting = Setting(folder, cache, folder / "prepared", (), arguments.timeout)
        (folder / "ours.yaml").write_text(yaml.safe_dump(job_of(task, 1, setting)), encoding="utf-8")
        for side in ("recipe", "ours"):
            print(f"{side} …", flush=True)
            run_side(side, task, setting)
        compared, plan = compare(folder), json.loads((folder / PLAN).read_text())
    print(json.dumps(plan))
    for one in compared:
        print(f"{one['gradient']:20} cosine {one['cosine']:.4f}  length × {one['length']:.4f}")
    arguments.json.write_text(json.dumps({"plan": plan, "compared": compared}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
