"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Option("--config", help="The job's YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one key, as training.max_steps=2; may be repeated."),
]
SubjectName = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="base, final_model, merged_model or checkpoint-N of the config's output folder; a folder; or a hub id. "
        "By default final_model.",
    ),
]
SubjectConfig = Annotated[
    Path | None,
    typer.Option("--config", help="The job's YAML file; by default the job.yaml beside the model, else config.yaml."),
]
