"""The command that trains."""

from pathlib import Path
from typing import Annotated

import typer

from gptoss_ft.cli.ending import errors_shown
from gptoss_ft.cli.options import ConfigFile, Overrides
from gptoss_ft.config import load_job_config
from gptoss_ft.config.keys import parse_key


def _known(keys: list[str] | None) -> list[str]:
    from gptoss_ft.reporting.same_job import CODE, DATA

    for key in keys or []:
        if key not in (CODE, DATA) and parse_key(key) is None:
            raise typer.BadParameter(f"{key} is no key of the config, nor {CODE} or {DATA}")
    return keys or []


def train(
    config: ConfigFile = Path("config.yaml"),
    overrides: Overrides = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Keep an existing output folder aside and start anew.")
    ] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="CHECKPOINT",
            help="Go on from checkpoint-N of the output folder, or of another (a path); what came later is set aside.",
        ),
    ] = None,
    allowed: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-changed",
            metavar="KEY",
            callback=_known,
            help="Go on though this changed since the run began: a config key or section, code, or data; may be "
            "repeated.",
        ),
    ] = None,
) -> None:
    """Train: checkpoints and final_model go to the output folder. The same command continues an interrupted run."""
    from gptoss_ft.reporting.output_folder import Start

    if restart and checkpoint is not None:
        raise typer.BadParameter("give either --restart or --from")
    start = Start(restart, checkpoint, tuple(allowed or ()))
    with errors_shown():
        loaded = load_job_config(config, overrides or [])
    with errors_shown(loaded.source, ("steps since the last checkpoint, if any, are lost", start.how_to_continue)):
        from gptoss_ft import job

        job.train(loaded, start)
