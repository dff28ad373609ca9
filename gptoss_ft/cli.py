"""The command line. A `JobError` ends here: one message with its place and its cure, and its exit code."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from gptoss_ft.config import ConfigSource, load_job_config, write_reference
from gptoss_ft.errors import Interrupted, JobError, MachineError, is_disk_full
from gptoss_ft.reporting.console import make_console, show_passed

app = typer.Typer(
    help="One YAML file in, a fine-tuned gpt-oss out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path, typer.Option("--config", help="The job's YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one key, as training.max_steps=2; may be repeated."),
]
Restart = Annotated[bool, typer.Option("--restart", help="Keep an existing output folder aside and start anew.")]


@app.command()
def train(config: ConfigFile = Path("config.yaml"), overrides: Overrides = None, restart: Restart = False) -> None:
    """Train: checkpoints and final_model go to the output folder."""
    with errors_shown():
        loaded = load_job_config(config, overrides or [])
    with errors_shown(loaded.source, trains=True):
        from gptoss_ft import job

        job.train(loaded, restart)


@app.command()
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

        code = inspecting.validate_job(loaded, lambda error: _show(error, loaded.source))
    if code:
        raise typer.Exit(code)


@app.command()
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


@app.command()
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


@app.command()
def schema() -> None:
    """Write config.schema.json and docs/configuration.md from the schema, into the current folder."""
    for path in write_reference(Path()):
        typer.echo(path)


@contextmanager
def errors_shown(source: ConfigSource | None = None, trains: bool = False) -> Iterator[None]:
    """End the program with a `JobError`'s message and exit code; `source` knows the place of its key, and `trains`
    says whether an interruption can lose steps."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Before and after training, where the trainer's own handling is not yet or no longer in force.
    for number in (signal.SIGTERM, signal.SIGHUP):
        # `nohup` has HUP ignored, and means it.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    except JobError as error:
        _show(error, source)
        raise typer.Exit(error.exit_code) from None
    except Exception as error:
        # Every file that a run writes can be the one that does not fit.
        if not is_disk_full(error):
            raise
        full = MachineError("no space is left on the disk", "Make space; the same command continues.")
        _show(full, None)
        raise typer.Exit(full.exit_code) from None
    except KeyboardInterrupt:
        lost = "steps since the last checkpoint, if any, are lost" if trains else "nothing is left half done"
        stop = Interrupted(f"at once; {lost}", "The same command continues.")
        _show(stop, None)
        raise typer.Exit(stop.exit_code) from None


def _show(error: JobError, source: ConfigSource | None) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    message = str(source.problem(error.key, error.message)) if source is not None and error.key else error.message
    label = "stopped" if isinstance(error, Interrupted) else "error"
    console.print(f"[bold red]{label}:[/] ", end="")
    console.print(message, markup=False)
    if error.cure:
        console.print(error.cure, markup=False, style="dim")


def main() -> None:
    """The entry of `train.py` and `python -m gptoss_ft`: without a command it trains."""
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] != "--help"):
        arguments = ["train", *arguments]
    app(arguments, prog_name="gptoss_ft")
