"""The sections of config.yaml: a file and a frozen pydantic model for each.

These files are the only place that states a key's name, type, range, default and meaning. config.schema.json,
docs/configuration.md, the default config.yaml and the words of every error are made from them.
"""

from gptoss_ft.config.sections.dataset import DatasetSection
from gptoss_ft.config.sections.evaluation import EvaluationSection
from gptoss_ft.config.sections.hub import HubSection
from gptoss_ft.config.sections.lora import LoraSection
from gptoss_ft.config.sections.model import ModelSection
from gptoss_ft.config.sections.performance import PerformanceSection
from gptoss_ft.config.sections.section import Section
from gptoss_ft.config.sections.tracking import TrackingSection
from gptoss_ft.config.sections.training import TrainingSection

__all__ = [
    "DatasetSection",
    "EvaluationSection",
    "HubSection",
    "LoraSection",
    "ModelSection",
    "PerformanceSection",
    "Section",
    "TrackingSection",
    "TrainingSection",
]
