"""The keys of `tracking`."""

from pydantic import Field

from gptoss_ft.config.sections.section import Section
from gptoss_ft.config.values import NullableText, Text, Trackers


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
