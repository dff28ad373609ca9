"""The job as typed values: one frozen pydantic model for each section of config.yaml.

This file is the only place that states a key's name, type, range, default and meaning. config.schema.json,
docs/configuration.md, the default config.yaml and the words of every error are made from it.
Nothing here imports torch or transformers: a mistake in a config is shown in a fraction of a second.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gptoss_ft.config.dataset_rules import entry_faults
from gptoss_ft.config.values import (
    Names,
    NullableText,
    Optimizer,
    PositiveInt,
    PromptDate,
    RelativeFolder,
    Repository,
    Scheduler,
    Text,
    Trackers,
    check_scheduler_kwargs,
)

DEFAULT_MAX_STEPS = 20


class Section(BaseModel):
    """What every section has: no unknown keys, no guessed types, no infinities, no changes afterwards."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )


class ModelSection(Section):
    """The base model, and how it is loaded."""

    name: Text = Field(default="unsloth/gpt-oss-20b", description="Base model: a hub id or a local folder.")
    revision: NullableText = Field(
        default=None,
        description="Commit, tag or branch of the base model on the hub; null takes the newest commit.",
    )
    max_seq_length: int = Field(default=1024, ge=16, description="Longest sample, in tokens.")
    load_in_4bit: bool = Field(
        default=True,
        description="Hold the base model's weights in 4 bits (QLoRA); false holds them in 16 bits.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description="Number format of the computation; auto takes bfloat16 where the device has it.",
    )
    chat_template: NullableText = Field(
        default=None,
        description="Path of a Jinja chat template, or a built-in one such as llama-3.1; null keeps the model's own.",
    )
    adapter: NullableText = Field(
        default=None,
        description="Existing LoRA adapter to go on training: a folder or a hub id; null starts a new one.",
    )
    device: Literal["cuda", "cpu", "auto"] = Field(
        default="cuda", description="Where to train; auto takes the GPU where there is one."
    )


class LoraSection(Section):
    """The LoRA adapter: the weights that are trained."""

    r: PositiveInt = Field(default=8, description="Rank of the adapter's matrices; a higher rank trains more weights.")
    alpha: PositiveInt = Field(
        default=16,
        description="Scale: the adapter's output is multiplied by alpha / r, with use_rslora by alpha / √r.",
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the adapter's inputs dropped at random in training."
    )
    bias: Literal["none", "all", "lora_only"] = Field(
        default="none", description="Which bias vectors are trained as well."
    )
    target_modules: list[Text] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        min_length=1,
        description="Names of the linear layers that get an adapter.",
    )
    target_parameters: list[Text] | None = Field(
        default=None,
        description="Fused parameters (experts) that get an adapter; null: chosen from target_modules.",
    )
    use_rslora: bool = Field(
        default=False, description="Rank-stabilised LoRA: scale by alpha / √r in place of alpha / r."
    )
    use_dora: bool = Field(
        default=False, description="DoRA: train magnitude and direction of each weight apart; slower."
    )
    modules_to_save: list[Text] | None = Field(
        default=None,
        description="Names of layers trained whole and saved with the adapter; null trains none.",
    )


class DatasetSection(Section):
    """The conversations or texts to train on; a list of such mappings where there are several data sets."""

    path: Text = Field(
        default="HuggingFaceH4/Multilingual-Thinking",
        description="Data set: a hub id, a local .json, .jsonl, .csv or .parquet file, or a folder of them.",
    )
    name: NullableText = Field(
        default=None, description="Subset (configuration) of the data set; null takes its default."
    )
    revision: NullableText = Field(
        default=None,
        description="Commit, tag or branch of the data set on the hub; null takes the newest commit.",
    )
    format: Literal["sharegpt", "alpaca", "prompt_completion", "custom"] = Field(
        default="sharegpt",
        description=(
            "What a row holds: sharegpt a list of messages, alpaca instruction/input/output, prompt_completion a "
            "prompt and its completion, custom one finished text."
        ),
    )
    split: Text = Field(default="train", description="Split of the data set; a slice such as train[:10%] works too.")
    max_samples: PositiveInt | None = Field(
        default=None, description="Most rows to use, from the first on; null uses all."
    )
    weight: float | None = Field(
        default=None,
        gt=0,
        description=(
            "In a list: this entry's share of the training rows, relative to the other entries' weights; null uses "
            "every row."
        ),
    )
    eval: bool = Field(default=False, description="In a list: use this entry's rows for evaluation only.")
    eval_fraction: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the rows held out for evaluation, chosen by training.seed.",
    )
    train_on: Literal["completions", "everything"] = Field(
        default="completions",
        description="Tokens whose loss counts: completions only what the assistant writes, or everything.",
    )
    reasoning_effort: Text = Field(
        default="medium",
        description=(
            "Reasoning effort stated in the system prompt: low, medium or high; or the name of a column that holds "
            "one of them for each row."
        ),
    )
    empty_thinking: Literal["drop", "keep"] = Field(
        default="drop",
        description=(
            "What an assistant message with an empty thinking means: drop that none was given, keep an empty analysis."
        ),
    )
    prompt_date: PromptDate = Field(
        default="2025-06-01",
        description="Date stated in the system prompt, always the same; null states none.",
    )
    on_invalid: Literal["error", "drop"] = Field(
        default="error",
        description=(
            "A row that cannot be trained on (wrong role order, empty answer, …): error stops with the first of them "
            "named, drop leaves it out and counts it."
        ),
    )
    max_invalid_fraction: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="With on_invalid: drop, the largest share of invalid rows; more stops the run.",
    )
    on_too_long: Literal["drop", "error", "truncate"] = Field(
        default="drop",
        description=(
            "A sample longer than model.max_seq_length: drop leaves it out and counts it, error stops, truncate cuts "
            "its end, and an answer that is cut is not trained."
        ),
    )
    messages_column: NullableText = Field(
        default=None,
        description="Column of the messages; null takes messages or else conversations, whichever is there.",
    )
    tools_column: Text = Field(default="tools", description="Column of tool definitions; it may be missing.")
    role_key: NullableText = Field(default=None, description="Key of a message's role; null: role or from.")
    content_key: NullableText = Field(default=None, description="Key of a message's content; null: content or value.")
    thinking_key: NullableText = Field(
        default=None, description="Key of a message's thinking; null: thinking or reasoning_content."
    )
    text_column: Text = Field(default="text", description="Column of the text, with format custom.")
    rename_columns: Names = Field(
        default={},
        description="Columns to rename before a row is read, as {old: new}; {question: instruction} for instance.",
    )
    prepared: NullableText = Field(
        default=None,
        description=(
            "Folder that `prepare` wrote; its samples are used as they are, in place of path and everything about it."
        ),
    )

    @field_validator("eval_fraction")
    @classmethod
    def _all_or_a_fraction(cls, eval_fraction: float, info: ValidationInfo) -> float:
        if info.data.get("eval") and eval_fraction > 0:
            raise ValueError("wanted 0, because eval: true already uses every row for evaluation")
        return eval_fraction


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


class PerformanceSection(Section):
    """How an optimizer step is computed; what it computes stays the same."""

    plan: Literal["auto", "off"] = Field(
        default="auto",
        description=(
            "auto fits micro-batches, recomputation and what is kept on the GPU to its memory; off computes as "
            "`training` says."
        ),
    )
    memory_limit_gib: float | None = Field(
        default=None,
        gt=0,
        description="Most GPU memory that a run may take, in GiB; null: all that the GPU has.",
    )
    fused_experts: bool = Field(
        default=True,
        description="Compute gpt-oss's 4-bit experts by this package's own kernels; false leaves them to Unsloth.",
    )


class EvaluationSection(Section):
    """What is asked of the model before and after training; RUN_EVALUATION=false skips all evaluation at the end."""

    prompts: list[Text] = Field(
        default=[],
        description="Questions that the model answers before and after training; the answers are kept.",
    )
    reasoning_efforts: list[Literal["low", "medium", "high"]] = Field(
        default=["medium"],
        min_length=1,
        description="Reasoning efforts at which each question is asked.",
    )
    system: NullableText = Field(
        default=None, description="System (developer) message before each question; null gives none."
    )
    max_new_tokens: PositiveInt = Field(default=256, description="Longest answer, in tokens.")
    temperature: float = Field(
        default=0.0, ge=0, le=10, description="Randomness of the answers; 0 takes the likeliest token each time."
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="With a temperature: choose among the likeliest tokens of this total share.",
    )


class TrackingSection(Section):
    """Where the course of the run is shown."""

    report_to: Trackers = Field(
        default=["tensorboard"], description="Trackers that get every log line; none for no tracker."
    )
    run_name: NullableText = Field(
        default=None,
        description="Name of the run in the trackers; null makes one from model, data set and user.",
    )
    project: Text = Field(default="gptoss_ft", description="Weights & Biases project.")


class HubSection(Section):
    """Publishing the adapter on the Hugging Face hub; the access token is never written here."""

    repo_id: Repository | None = Field(
        default=None,
        description="Repository on the hub, as owner/name; null: HF_USER (or the token's account) / output_dir-lora.",
    )
    private: bool = Field(default=True, description="Make the repository private when it is created.")
    push: bool = Field(
        default=False,
        description="Push the finished adapter at the end; PUSH_TO_HUB=true or false overrules it.",
    )
    tags: list[Text] = Field(
        default=[], description="Tags of the model card beside its own, such as education or korean."
    )
    card_language: Literal["en", "ko"] = Field(default="en", description="Language of the model card's text.")
    card_template: NullableText = Field(
        default=None, description="Path of a Jinja template for the model card's text; null takes ours."
    )
    license: NullableText = Field(
        default=None,
        description="Licence of the adapter, by the hub's identifier (apache-2.0, …); null: the base model's.",
    )


def _shape(value: Any) -> str:
    return "list" if isinstance(value, list) else "mapping"


class JobConfig(BaseModel):
    """One job: everything that decides what is trained, on what, how, and where the result goes."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    model: ModelSection = Field(default_factory=ModelSection)
    lora: LoraSection = Field(default_factory=LoraSection)
    dataset: Annotated[
        Annotated[DatasetSection, Tag("mapping")] | Annotated[list[DatasetSection], Field(min_length=1), Tag("list")],
        Discriminator(_shape),
    ] = Field(default_factory=DatasetSection)
    training: TrainingSection = Field(default_factory=TrainingSection)
    performance: PerformanceSection = Field(default_factory=PerformanceSection)
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    tracking: TrackingSection = Field(default_factory=TrackingSection)
    hub: HubSection = Field(default_factory=HubSection)

    @property
    def datasets(self) -> tuple[DatasetSection, ...]:
        """The entries of `dataset`; one where it is a mapping."""
        return tuple(self.dataset) if isinstance(self.dataset, list) else (self.dataset,)

    @field_validator("dataset")
    @classmethod
    def _fit_each_other(cls, dataset: DatasetSection | list[DatasetSection]) -> DatasetSection | list[DatasetSection]:
        faults = entry_faults(dataset)
        if faults:
            words = "; ".join(f"{key}: {message}" for key, message in faults)
            raise PydanticCustomError("entries", "{words}", {"words": words, "faults": faults})
        return dataset


SECTIONS: dict[str, type[Section]] = {
    "model": ModelSection,
    "lora": LoraSection,
    "dataset": DatasetSection,
    "training": TrainingSection,
    "performance": PerformanceSection,
    "evaluation": EvaluationSection,
    "tracking": TrackingSection,
    "hub": HubSection,
}

# Every key by its section, in the order of config.yaml.
KEYS: dict[str, list[str]] = {name: list(section.model_fields) for name, section in SECTIONS.items()}
