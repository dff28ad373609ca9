"""The job: one YAML file, checked in full before anything else happens."""

from gptoss_ft.config.job_file import JOB_FILE, find_job_file, write_job_file
from gptoss_ft.config.keys import by_owner
from gptoss_ft.config.places import ConfigSource
from gptoss_ft.config.reference import configuration_page, default_config, json_schema, write_reference
from gptoss_ft.config.schema import JobConfig
from gptoss_ft.config.sections import (
    DatasetSection,
    EvaluationSection,
    HubSection,
    LoraSection,
    ModelSection,
    PerformanceSection,
    TrackingSection,
    TrainingSection,
)
from gptoss_ft.config.yaml_source import LoadedConfig, load_job_config

__all__ = [
    "JOB_FILE",
    "ConfigSource",
    "DatasetSection",
    "EvaluationSection",
    "HubSection",
    "JobConfig",
    "LoadedConfig",
    "LoraSection",
    "ModelSection",
    "PerformanceSection",
    "TrackingSection",
    "TrainingSection",
    "by_owner",
    "configuration_page",
    "default_config",
    "find_job_file",
    "json_schema",
    "load_job_config",
    "write_job_file",
    "write_reference",
]
