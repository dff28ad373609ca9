"""The arguments of TRL's SFTTrainer, from the config.

Imported after Unsloth, which replaces TRL's classes.
"""

from pathlib import Path

import torch
from transformers.training_args import OptimizerNames
from trl import SFTConfig

from gptoss_ft.config import JobConfig
from gptoss_ft.training.tracking import run_name, trackers


def training_arguments(job: JobConfig, dtype: torch.dtype, folder: Path) -> SFTConfig:
    """For a model of `dtype`; checkpoints go to `folder`."""
    training = job.training
    return SFTConfig(
        output_dir=str(folder),
        max_steps=training.max_steps or -1,
        num_train_epochs=training.num_train_epochs or 1.0,
        # All samples of an optimizer step at once: the plan divides them.
        per_device_train_batch_size=training.per_device_train_batch_size * training.gradient_accumulation_steps,
        gradient_accumulation_steps=1,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        lr_scheduler_kwargs=dict(training.lr_scheduler_kwargs),
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim=training.optim,
        router_aux_loss_coef=training.router_aux_loss_coef,
        gradient_checkpointing=bool(training.gradient_checkpointing),
        seed=training.seed,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        logging_steps=training.logging_steps,
        # Left on, a loss that is not finite is logged as 0.
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=training.save_steps,
        report_to=trackers(job) or "none",
        run_name=run_name(job),
        disable_tqdm=True,
        # The rows are tokens and labels already, none longer than max_length.
        max_length=job.model.max_seq_length,
        dataset_kwargs={"skip_prepare_dataset": True},
        packing=False,
        remove_unused_columns=False,
    )


def as_resolved(job: JobConfig, dtype: torch.dtype, folder: Path) -> dict[str, str]:
    """What the config left to the device, for the manifest: the model's `dtype`, and the `optimizer`, in whose place
    Unsloth takes another one on a CPU."""
    optimizer = OptimizerNames(training_arguments(job, dtype, folder).optim).value
    return {"dtype": str(dtype).removeprefix("torch."), "optimizer": optimizer}
