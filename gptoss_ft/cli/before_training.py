"""Commands that look at a job before it is trained: validate, preview, plan, prepare, and for scripts setting."""

from pathlib import Path
from typing import Annotated

import typer

from gptoss_ft.cli.ending import errors_shown, show_error
from gptoss_ft.cli.options import ConfigFile, Overrides
from gptoss_ft.config import load_job_config
from gptoss_ft.config.keys import LISTED
from gptoss_ft.config.schema import KEYS
from gptoss_ft.errors import ExitCode
from gptoss_ft.reporting.console import make_console, show_passed


def validate(
    config: ConfigFile = Path("config.yaml"),
    overrides: Overrides = None,
    config_only: Annotated[bool, typer.Option("--config-only", help="Check the YAML file alone.")] = False,
) -> None:
    """Check config, data, labels, disk and token without a GPU and without the model's weights."""
    with errors_shown():
        loaded = load_job_config(config, overrides or [])
    if config_only:
        show_passed(make_console(), "config", loaded.source.path)
        return
    with errors_shown(loaded.source):
        from gptoss_ft import inspecting

        code = inspecting.validate_job(loaded, lambda error: show_error(error, loaded.source))
    if code:
        raise typer.Exit(code)


def setting(
    key: Annotated[str, typer.Argument(metavar="SECTION.KEY")],
    config: ConfigFile = Path("config.yaml"),
    overrides: Overrides = None,
) -> None:
    """Show the value that one key has, where the config does not state it its default: what a shell cannot read."""
    section, _, name = key.partition(".")
    if name not in KEYS.get(section, []) or section == LISTED:
        raise typer.BadParameter(f"{key} is no key of the config")
    with errors_shown():
        loaded = load_job_config(config, overrides or [])
    typer.echo(getattr(getattr(loaded.job, section), name))


def preview(
    config: ConfigFile = Path("config.yaml"),
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="How many samples to show.")] = 3,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page in place of text.")] = None,
    held_out: Annotated[bool, typer.Option("--eval", help="Show samples that are held out for evaluation.")] = False,
) -> None:
    """Show which tokens are trained: counts, lengths, and the first samples in colour."""
    with errors_shown():
        loaded = load_job_config(config, overrides or [])
    with errors_shown(loaded.source):
        from gptoss_ft import inspecting

        inspecting.preview_data(loaded, samples, html, "eval" if held_out else "train")


def plan(
    config: ConfigFile = Path("config.yaml"),
    overrides: Overrides = None,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="SIZE|NAME", help="For another GPU, as 16GiB or H100; by default the one here."),
    ] = None,
) -> None:
    """Show what a run would do with the GPU's memory, and how fast it would be; exit code 4 where it does not fit."""
    with errors_shown():
        loaded = load_job_config(config, overrides or [])
    with errors_shown(loaded.source):
        from gptoss_ft.planning import command

        fits = command.plan_job(loaded, gpu)
    if not fits:
        raise typer.Exit(ExitCode.MACHINE)


def prepare(
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="The new folder to write to.")],
    config: ConfigFile = Path("config.yaml"),
    overrides: Overrides = None,
) -> None:
    """Write exactly the samples that training would see: train.parquet, eval.parquet and summary.json."""
    with errors_shown():
        loaded = load_job_config(config, overrides or [])
    with errors_shown(loaded.source):
        from gptoss_ft import inspecting

        inspecting.prepare_data(loaded, output)
