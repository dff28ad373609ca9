"""The job as typed values: what sections/ states, put together.

Nothing in this package imports torch or transformers: a mistake in a config is shown in a fraction of a second.
"""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from gptoss_ft.config.dataset_rules import entry_faults
from gptoss_ft.config.sections import (
    DatasetSection,
    EvaluationSection,
    HubSection,
    LoraSection,
    ModelSection,
    PerformanceSection,
    Section,
    TrackingSection,
    TrainingSection,
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
