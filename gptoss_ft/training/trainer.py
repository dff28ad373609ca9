"""TRL's SFTTrainer, set up from the config, on rows that are already tokens and labels.

Imported after Unsloth, which replaces TRL's classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig

from gptoss_ft.config import JobConfig
from gptoss_ft.data.channels import ChannelReader
from gptoss_ft.data.packing import FullRows, packed_dataset
from gptoss_ft.data.storage import PreparedData
from gptoss_ft.errors import MachineError
from gptoss_ft.model.attention import DocumentAttention
from gptoss_ft.planning.plan import Plan
from gptoss_ft.runtime import Device
from gptoss_ft.training.callbacks import StepReporter
from gptoss_ft.training.evaluation import evaluate_while_training
from gptoss_ft.training.interruption import StepAbandoned, stop_on_signal
from gptoss_ft.training.planned_trainer import PlannedTrainer, Replanned
from gptoss_ft.training.tracking import refused_by_tracker, run_name, trackers


def build_trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    data: PreparedData,
    job: JobConfig,
    folder: Path,
    device: Device,
    plan: Plan,
    attention: DocumentAttention | None,
    replanned: Replanned,
    full_rows: FullRows | None = None,
) -> Any:
    """The trainer of this job; checkpoints go to `folder`/checkpoint-N. `replanned` is told the smaller plan when a
    step did not fit; `full_rows`, with `training.packing`, are what a step takes in place of samples."""
    training = job.training
    arguments = SFTConfig(
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
        bf16=model.dtype == torch.bfloat16,
        fp16=model.dtype == torch.float16,
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
    trainer = PlannedTrainer(
        model=model,
        args=arguments,
        train_dataset=_dataset(data.train) if full_rows is None else packed_dataset(data.train, full_rows),
        processing_class=tokenizer,
        plan=plan,
        attention=attention,
        device=device,
        replanned=replanned,
        limit=training.save_total_limit,
        training=training,
        named=data.named,
    )
    trainer.remove_callback(PrinterCallback)
    if training.eval_steps is not None:
        evaluate_while_training(trainer, data.eval, ChannelReader(tokenizer), training)
    return trainer


def _dataset(samples: pa.Table) -> Dataset:
    """The samples with their own indices, by which one that is not finite is named."""
    indices = pa.array(np.arange(samples.num_rows, dtype=np.int32))
    return Dataset(samples.select(["input_ids", "labels"]).append_column("sample", indices))


def run(trainer: Any, reporter: StepReporter, resume_from: Path | None) -> bool:
    """Train; False when a signal or the time limit ended it early, as `trainer.stop` knows. `MachineError` when the
    GPU's memory runs out, `HubError` when a tracker refuses the run, `NotFiniteError` as the config says."""
    with stop_on_signal(trainer.stop), refused_by_tracker():
        # In this order: what a signal has saved is not logged for that, or losses would be other means than without it.
        trainer.add_callback(reporter)
        trainer.add_callback(trainer.stop)
        trainer.finite.told = reporter.add_skip
        try:
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        except StepAbandoned:
            trainer.save_last_step()
        except Exception as error:
            # A checkpoint that was begun is whole when the run ends; a second signal alone waits for nothing.
            trainer.checkpoints.finish()
            if isinstance(error, torch.OutOfMemoryError):
                raise MachineError(
                    f"the GPU's memory ran out while training: {str(error).splitlines()[0]}", _cure(trainer.plan)
                ) from None
            raise
        trainer.checkpoints.wait()
    return not trainer.stop.has_stopped or trainer.state.global_step >= trainer.state.max_steps


def _cure(plan: Plan) -> str:
    common = "lower model.max_seq_length, or take gate_proj, up_proj and down_proj out of lora.target_modules"
    if plan.rows == "as configured":
        return (
            "Lower training.per_device_train_batch_size and raise gradient_accumulation_steps by the same factor, or "
            f"{common}."
        )
    return f"There is no smaller plan: raise performance.memory_limit_gib where it is set, {common}."
