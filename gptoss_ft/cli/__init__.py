"""The command line: its commands by when they are used, and how each ends."""

import signal
import sys
import traceback
from pathlib import Path

import typer

from gptoss_ft.cli import after_training, before_training, training
from gptoss_ft.config import write_reference
from gptoss_ft.errors import ExitCode
from gptoss_ft.redaction import redact_log_records, redacted

app = typer.Typer(
    help="One YAML file in, a fine-tuned gpt-oss out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (
    training.train,
    before_training.validate,
    before_training.preview,
    before_training.plan,
    before_training.prepare,
    after_training.evaluate,
    after_training.generate,
    after_training.export,
    after_training.push,
    after_training.merge,
):
    app.command()(_command)


app.command(hidden=True)(before_training.setting)


@app.command()
def schema() -> None:
    """Write config.schema.json and docs/configuration.md from the schema, into the current folder."""
    for path in write_reference(Path()):
        typer.echo(path)


def main() -> None:
    """A command, as `sys.argv` has it: without one it trains."""
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] != "--help"):
        arguments = ["train", *arguments]
    # With HF_DEBUG the hub's client tells of each request, and its address may hold a password.
    redact_log_records()
    try:
        app(arguments, prog_name="gptoss_ft")
    except Exception:
        # What Python would do, but for a secret in a library's exception.
        sys.stderr.write(redacted(traceback.format_exc()))
        sys.exit(ExitCode.DEFECT)


def program() -> None:
    """The entry of `train.py` and `python -m gptoss_ft`: a process for one command."""
    try:
        main()
    finally:
        # Python's own end takes a while. A signal that comes in then would give another exit code to what has ended.
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
