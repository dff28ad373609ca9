"""The keys of `hub`."""

from typing import Literal

from pydantic import Field

from gptoss_ft.config.sections.section import Section
from gptoss_ft.config.values import NullableText, Repository, Text


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
