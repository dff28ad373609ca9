"""The recipe of Unsloth's gpt-oss-20b fine-tuning notebook, on rows that are tokens already.

    python -m peers.notebook TASK.json STEPS.json

One sample at a time, as many times as the optimizer step has samples. Uses none of this project's package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peers.measure import (
    ALPHA,
    ATTENTION,
    LEARNING_RATE,
    MLP,
    RANK,
    SEED,
    Task,
    hold_to_cap,
    make_clock,
    read_task,
)
from peers.rows import Rows


def load(task: Task) -> tuple[Any, Any]:
    """The 4-bit model with its adapters (16 bits and float32 on a CPU), and its tokenizer."""
    import torch
    from unsloth import FastLanguageModel

    if task.experts == "cookbook":
        raise ValueError("Unsloth's 4-bit experts are modules of their own: want --experts all or none")
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=task.model,
        dtype=None if task.on_gpu else torch.float32,
        max_seq_length=task.longest,
        load_in_4bit=task.on_gpu,
        full_finetuning=False,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=RANK,
        target_modules=[*ATTENTION, *(MLP if task.experts == "all" else [])],
        # On a GPU Unsloth finds the experts by the names above, its CPU backend does not.
        target_parameters=None if task.on_gpu else task.fused_targets(),
        lora_alpha=ALPHA,
        lora_dropout=0,
        bias="none",
        use_gradient_checkpointing="unsloth",
        random_state=SEED,
        use_rslora=False,
        loftq_config=None,
    )
    return model, tokenizer


def make_trainer(model: Any, tokenizer: Any, rows: Rows, task: Task, folder: Path, **changes: Any) -> Any:
    """The notebook's trainer; `changes` replace its arguments."""
    from trl import SFTConfig, SFTTrainer

    arguments: dict[str, Any] = {
        "per_device_train_batch_size": task.micro_batch,
        "gradient_accumulation_steps": task.effective_batch // task.micro_batch,
        "warmup_steps": 5,
        "max_steps": len(rows.lengths) // task.effective_batch,
        "learning_rate": LEARNING_RATE,
        "logging_steps": 1,
        "optim": "adamw_8bit" if task.on_gpu else "adamw_torch_fused",
        "weight_decay": 0.001,
        "lr_scheduler_type": "linear",
        "seed": SEED,
        "output_dir": str(folder),
        "report_to": "none",
        # What follows is not the notebook's: rows are ready, and come in their order.
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",
        "max_length": task.longest,
        "save_strategy": "no",
        "disable_tqdm": True,
        "bf16": task.on_gpu,
        # Left alone, TRL 1.15.0 adds the router's balance, a mean over each micro-batch, to the loss; ours does not.
        "router_aux_loss_coef": 0.0,
    }
    return SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=rows.dataset(),
        args=SFTConfig(**{**arguments, **changes}),
    )


def main() -> None:
    import unsloth  # noqa: F401  # before transformers and trl, and before CUDA starts

    task, output = read_task()
    hold_to_cap(task.cap_gib)
    model, tokenizer = load(task)
    rows = Rows.load(Path(task.rows))
    trainer = make_trainer(model, tokenizer, rows, task, output.parent)
    trainer.add_callback(make_clock(rows.tokens_of_steps(task.effective_batch), output))
    trainer.train()


if __name__ == "__main__":
    main()
