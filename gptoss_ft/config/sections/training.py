"""The keys of `training`."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gptoss_ft.config.sections.section import Section
from gptoss_ft.config.values import Optimizer, PositiveInt, RelativeFolder, Scheduler, check_scheduler_kwargs

DEFAULT_MAX_STEPS = 20


class TrainingSection(Section):
    """The optimizer, its schedule, and what is saved."""

    num_train_epochs: float | None = Field(
        default=None,
        gt=0,
        description="Length of the run in passes over the data; null where max_steps ends the run.",
    )
    max_steps: PositiveInt | None = Field(
        default=DEFAULT_MAX_STEPS,
        description="Length of the run in optimizer steps; null where num_train_epochs ends the run.",
    )
    per_device_train_batch_size: PositiveInt = Field(
        default=1, description="Micro-batch: samples a device takes at once."
    )
    gradient_accumulation_steps: PositiveInt = Field(
        default=4,
        description="Micro-batches to an optimizer step; samples in it = micro-batch * this * devices.",
    )
    learning_rate: float = Field(
        default=2e-4, gt=0, le=1, description="Peak learning rate, reached when the warm-up ends."
    )
    lr_scheduler_type: Scheduler = Field(default="linear", description="Course of the learning rate after the warm-up.")
    lr_scheduler_kwargs: dict[str, int | float | str] = Field(
        default={}, description="Settings of that course, such as {num_cycles: 2} for cosine_with_restarts."
    )
    warmup_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = Field(
        default=5,
        description="Steps over which the learning rate rises from 0; below 1: that fraction of all steps.",
    )
    weight_decay: float = Field(
        default=0.01, ge=0, le=1, description="Decay of the trained weights, per unit of learning rate."
    )
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="Longest gradient (L2 norm); longer is scaled down; 0: never."
    )
    optim: Optimizer = Field(default="adamw_8bit", description="Optimizer; the 8-bit ones keep their state in 8 bits.")
    router_aux_loss_coef: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Weight in the loss of the experts' load balance; 0 leaves it out.",
    )
    gradient_checkpointing: bool | Literal["unsloth"] = Field(
        default="unsloth",
        description="Recompute activations to save memory; unsloth keeps some in the host's memory instead.",
    )
    packing: bool = Field(
        default=False,
        description=(
            "Lay samples end to end into full rows of max_seq_length, across optimizer steps; it changes what a batch "
            "is."
        ),
    )
    logging_steps: PositiveInt = Field(default=1, description="Steps between two lines of the log.")
    save_steps: PositiveInt = Field(default=10, description="Steps between two checkpoints.")
    save_total_limit: PositiveInt | None = Field(
        default=None, description="Checkpoints kept, the newest; null keeps all."
    )
    eval_steps: PositiveInt | None = Field(
        default=None,
        description="Steps between two evaluations on the held-out rows; null evaluates only when training has ended.",
    )
    early_stopping_patience: PositiveInt | None = Field(
        default=None,
        description="With eval_steps: evaluations in a row without a lower loss that end the run; null never does.",
    )
    load_best_model_at_end: bool = Field(
        default=True,
        description="With eval_steps: final_model is the checkpoint with the lowest evaluation loss, not the last.",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop",
        description=(
            "A step whose loss or gradient is not finite: stop ends the run before it changes a weight, with its rows "
            "named; skip leaves the step out."
        ),
    )
    max_skipped_steps: PositiveInt = Field(
        default=3, description="With on_nonfinite: skip, the most steps that are left out; one more stops the run."
    )
    loss_alarm: float | None = Field(
        default=2.0,
        gt=1,
        description=(
            "Tell, once, when the mean loss of the last 10 log lines rises past this multiple of the lowest such mean; "
            "null never does."
        ),
    )
    grace_seconds: float = Field(
        default=30.0,
        ge=0,
        description="Seconds after a signal to stop (TERM, INT, HUP, USR1) within which the state is saved.",
    )
    time_limit: float | None = Field(
        default=None,
        gt=0,
        description=(
            "Minutes from the program's start after which training stops with its state saved, in good time; null: no "
            "limit."
        ),
    )
    seed: int = Field(
        default=3407,
        ge=0,
        le=2**32 - 1,
        description="Seed of the adapter's first weights and the data order.",
    )
    output_dir: RelativeFolder = Field(
        default="gpt-oss-finetune", description="Folder of the run's files, inside outputs/."
    )

    @model_validator(mode="before")
    @classmethod
    def _no_default_beside_epochs(cls, given: Any) -> Any:
        if isinstance(given, dict) and "max_steps" not in given and given.get("num_train_epochs") is not None:
            return {**given, "max_steps": None}
        return given

    @field_validator("max_steps")
    @classmethod
    def _one_end(cls, max_steps: int | None, info: ValidationInfo) -> int | None:
        """A run ends by steps or by epochs: neither given means the default steps; both, or null for both, is an
        error."""
        if "num_train_epochs" not in info.data:  # it is itself wrong, and shown for that
            return max_steps
        if max_steps is None and info.data["num_train_epochs"] is None:
            raise ValueError("wanted a number of steps, or num_train_epochs beside it: nothing ends the run")
        if max_steps is not None and info.data["num_train_epochs"] is not None:
            raise PydanticCustomError("two_ends", "max_steps and num_train_epochs are both set")
        return max_steps

    @field_validator("eval_steps")
    @classmethod
    def _best_is_saved(cls, eval_steps: int | None, info: ValidationInfo) -> int | None:
        """The best model can only be kept where every checkpoint was evaluated."""
        save_steps = info.data.get("save_steps")
        if eval_steps is not None and save_steps is not None and save_steps % eval_steps:
            raise ValueError(f"wanted a divisor of save_steps ({save_steps}), so that every checkpoint is evaluated")
        return eval_steps

    @field_validator("early_stopping_patience")
    @classmethod
    def _patience_needs_evaluations(cls, patience: int | None, info: ValidationInfo) -> int | None:
        if patience is not None and info.data.get("eval_steps", 0) is None:
            raise ValueError("wanted null, or eval_steps beside it: without evaluations nothing is waited for")
        return patience

    @field_validator("lr_scheduler_kwargs")
    @classmethod
    def _fit_scheduler(cls, kwargs: dict[str, int | float | str], info: ValidationInfo) -> dict[str, int | float | str]:
        if "lr_scheduler_type" in info.data:
            check_scheduler_kwargs(info.data["lr_scheduler_type"], kwargs)
        return kwargs
