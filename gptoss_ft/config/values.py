"""Types of single values: text, dates, folders, repository ids, and the settings of a learning-rate schedule.

`patternErrorMessage` is the keyword by which editors (yaml-language-server, VS Code) word a failed pattern;
our own errors use the same words.
"""

import re
from datetime import date
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

PositiveInt = Annotated[int, Field(ge=1)]

_TEXT = r"^[^\x00-\x20\x7f]([^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?$"

Text = Annotated[str, Field(pattern=_TEXT, json_schema_extra={"patternErrorMessage": "text"})]


def _not_the_word_none(value: str | None) -> str | None:
    if value is not None and value.lower() == "none":
        raise ValueError("wanted null, which is how YAML writes nothing")
    return value


NullableText = Annotated[Text | None, AfterValidator(_not_the_word_none)]


_TEXT_SCHEMA = {"type": "string", "pattern": _TEXT, "patternErrorMessage": "text"}

# pydantic 2.14 writes patternProperties, which lets every name that does not fit the pattern pass.
Names = Annotated[
    dict[Text, Text],
    WithJsonSchema({"type": "object", "propertyNames": _TEXT_SCHEMA, "additionalProperties": _TEXT_SCHEMA}),
]


def _real_date(value: str) -> str:
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
            raise ValueError
        date.fromisoformat(value)
    except ValueError:
        raise ValueError("wanted a date of the calendar, as YYYY-MM-DD, or null") from None
    return value


PromptDate = Annotated[str, AfterValidator(_real_date), Field(json_schema_extra={"format": "date"})] | None


def _inside_outputs(value: str) -> str:
    folder = PurePosixPath(value)
    if folder.is_absolute() or ".." in folder.parts or not folder.parts or "\\" in value or value[0] == "~":
        raise ValueError("wanted a folder inside outputs/: no / at the start, no .. in it")
    return value


RelativeFolder = Annotated[Text, AfterValidator(_inside_outputs)]

Repository = Annotated[
    str,
    Field(
        max_length=96,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$",
        json_schema_extra={"patternErrorMessage": "a repository as owner/name"},
    ),
]

Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "warmup_stable_decay",
]
Optimizer = Literal[
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "sgd",
]


def _trackers(value: Any) -> Any:
    """`none`, `wandb` → `[]`, `["wandb"]`; anything else is left for the type to judge."""
    if value == "none":
        return []
    return [value] if isinstance(value, str) else value


Trackers = Annotated[
    list[Literal["tensorboard", "wandb"]],
    BeforeValidator(_trackers),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"enum": ["tensorboard", "wandb"], "type": "string"}},
                {"enum": ["tensorboard", "wandb", "none"], "type": "string"},
            ]
        }
    ),
]

# What each schedule of transformers 5.17 takes besides warm-up and length; a test compares the two.
SCHEDULER_KWARGS: dict[str, tuple[str, ...]] = {
    "linear": (),
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "polynomial": ("lr_end", "power"),
    "constant": (),
    "constant_with_warmup": (),
    "inverse_sqrt": ("timescale",),
    "cosine_with_min_lr": ("num_cycles", "min_lr", "min_lr_rate"),
    "warmup_stable_decay": (
        "num_decay_steps",
        "num_stable_steps",
        "warmup_type",
        "decay_type",
        "min_lr_ratio",
        "num_cycles",
    ),
}
_CURVES = ("linear", "cosine", "1-sqrt")


def check_scheduler_kwargs(scheduler: str, kwargs: dict[str, int | float | str]) -> None:
    """Raise ValueError where transformers would fail on `kwargs`, but only once the model is loaded."""
    allowed = SCHEDULER_KWARGS[scheduler]
    for name, value in kwargs.items():
        if name not in allowed:
            choice = f"only {', '.join(allowed)}" if allowed else "{}"
            raise ValueError(f"wanted {choice}, which is all that lr_scheduler_type {scheduler} takes")
        if name.endswith("_type") and value not in _CURVES:
            raise ValueError(f"wanted {name} to be one of {', '.join(_CURVES)}")
        if not name.endswith("_type") and (isinstance(value, str) or value < 0):
            raise ValueError(f"wanted {name} to be a number, 0 or more")
    if scheduler == "cosine_with_min_lr" and len({"min_lr", "min_lr_rate"} & kwargs.keys()) != 1:
        raise ValueError("wanted one of min_lr and min_lr_rate, which cosine_with_min_lr ends at")
    if scheduler == "warmup_stable_decay" and "num_decay_steps" not in kwargs:
        raise ValueError("wanted num_decay_steps, the steps over which warmup_stable_decay comes down")
