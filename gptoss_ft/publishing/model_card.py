"""README.md of a model's folder: what it is, what it was made of, how it fared, and how to use it."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptoss_ft.config import JobConfig
from gptoss_ft.publishing.card_template import check_names, render_text
from gptoss_ft.publishing.card_values import Kind, card_values
from gptoss_ft.publishing.run_facts import RunFacts
from gptoss_ft.publishing.sample_facts import sample_facts
from gptoss_ft.redaction import redacted
from gptoss_ft.reporting.files import write_json
from gptoss_ft.reporting.output_folder import FINAL_MODEL

CARD = "README.md"
# What the hub takes for a tag: it lets a card through with any other, but shows the tag to nobody.
TAGS = ("gptoss_ft", "unsloth", "trl", "sft", "text-generation")
ADAPTER_TAGS = ("lora", "peft")


def kind_of(folder: Path) -> Kind:
    """Whether a folder holds an adapter or a whole model."""
    return "adapter" if (folder / "adapter_config.json").is_file() else "merged"


def write_card(folder: Path, facts: RunFacts, job: JobConfig, kind: Kind, repo_id: str | None = None) -> None:
    """Write `folder`/README.md for the model that `job` trained. `repo_id` is where it goes, if that is known.
    `SettingError` for a template of the user's that fails."""
    (folder / CARD).write_text(render_card(folder, facts, job, kind, repo_id), encoding="utf-8")


def render_card(folder: Path, facts: RunFacts, job: JobConfig, kind: Kind, repo_id: str | None = None) -> str:
    """The card: a YAML header for the hub, and the text. Holds no token, and no path of this machine."""
    values = card_values(folder, facts, job, kind, repo_id)
    return redacted(f"---\n{_header(job, kind, values)}\n---\n\n{render_text(job.hub, values)}")


def check_card(job: JobConfig) -> None:
    """Render the cards of a run that knows all that this job will know, so that a template's mistake is known before
    training."""
    known = sample_facts(job)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / FINAL_MODEL
        folder.mkdir()
        write_json(folder / "config.json", {"dtype": "bfloat16"})
        check_names(job.hub, card_values(folder, known, job, "adapter", None).keys())
        render_card(folder, known, job, "adapter")
        render_card(folder, known, job, "adapter", "ann/model")
        render_card(folder, known, job, "merged")


def _header(job: JobConfig, kind: Kind, values: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    base, is_adapter = values["base"]["id"], kind == "adapter"
    # Only what the hub has can be linked from a header.
    data_sets = list(dict.fromkeys(entry["id"] for entry in values["data_sets"] if entry["id"] is not None))
    data = ModelCardData(
        base_model=base,
        datasets=data_sets or None,
        library_name="peft" if is_adapter else "transformers",
        license=values["licence"],
        pipeline_tag="text-generation",
        tags=[*(ADAPTER_TAGS if is_adapter else ()), *TAGS, *job.hub.tags],
        base_model_relation=("adapter" if is_adapter else "finetune") if base else None,
    )
    return str(data.to_yaml())
