"""TRL's SFTTrainer, set up from the config, on rows that are already tokens and labels.

Imported after Unsloth, which replaces TRL's classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback

from gptoss_ft.config import JobConfig
from gptoss_ft.data.channels import ChannelReader
from gptoss_ft.data.packing import FullRows, packed_dataset
from gptoss_ft.data.storage import PreparedData
from gptoss_ft.errors import MachineError, SettingError
from gptoss_ft.model.attention import DocumentAttention
from gptoss_ft.planning.plan import Plan
from gptoss_ft.runtime import Device, is_out_of_memory, process_seconds
from gptoss_ft.training.arguments import training_arguments
from gptoss_ft.training.callbacks import StepReporter
from gptoss_ft.training.evaluation import evaluate_while_training
from gptoss_ft.training.interruption import StepAbandoned, stop_on_signal
from gptoss_ft.training.planned_trainer import PlannedTrainer, Replanned
from gptoss_ft.training.tracking import refused_by_tracker


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
    trainer = PlannedTrainer(
        model=model,
        args=training_arguments(job, model.dtype, folder),
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
    """Train; False when a signal came in, or the time limit ended it early, as `trainer.stop` knows.

    `MachineError` when the GPU's memory runs out, `HubError` when a tracker refuses the run, `NotFiniteError` as the
    config says, `SettingError` when the time limit leaves no time for a step.
    """
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
            if is_out_of_memory(error):
                raise MachineError(
                    f"the GPU's memory ran out while training: {str(error).splitlines()[0]}", _cure(trainer.plan)
                ) from None
            raise
        trainer.checkpoints.wait()
    if trainer.stop.leaves_no_step:
        raise SettingError(
            f"after {process_seconds() / 60:.2g} minutes there is no time left for a step and a checkpoint",
            "Set a longer one: the same command would end in the same way again.",
            "training.time_limit",
        )
    # Who sent a signal waits for the end, even where no step was left.
    has_ended = not trainer.stop.has_stopped or trainer.state.global_step >= trainer.state.max_steps
    return has_ended and trainer.stop.signal is None


def _cure(plan: Plan) -> str:
    common = "lower model.max_seq_length, or take gate_proj, up_proj and down_proj out of lora.target_modules"
    if plan.rows == "as configured":
        return (
            "Lower training.per_device_train_batch_size and raise gradient_accumulation_steps by the same factor, or "
            f"{common}."
        )
    return f"There is no smaller plan: raise performance.memory_limit_gib where it is set, {common}."
