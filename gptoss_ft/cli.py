"""The command line. A `JobError` ends here: one message with its place and its cure, and its exit code."""

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer
from rich.console import Console

from gptoss_ft.config import ConfigSource, load_job_config, write_reference
from gptoss_ft.errors import ExitCode, Interrupted, JobError, MachineError, is_disk_full
from gptoss_ft.redaction import redacted
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
# What an interruption leaves, and what to do after it.
Interruption = tuple[str, str]
ANEW: Interruption = ("nothing is left half done", "The same command begins anew.")
STEPS_LOST: Interruption = ("steps since the last checkpoint, if any, are lost", "The same command continues.")
FILES_KEPT: Interruption = ("the files of weights that were whole are kept", "The same command continues.")
UPLOAD_KEPT: Interruption = ("what has arrived at the hub is not sent again", "The same command continues.")
Restart = Annotated[bool, typer.Option("--restart", help="Keep an existing output folder aside and start anew.")]


@app.command()
def train(config: ConfigFile = Path("config.yaml"), overrides: Overrides = None, restart: Restart = False) -> None:
    """Train: checkpoints and final_model go to the output folder."""
    with errors_shown():
        loaded = load_job_config(config, overrides or [])
    with errors_shown(loaded.source, STEPS_LOST):
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
def evaluate(
    model: SubjectName = None,
    config: SubjectConfig = None,
    overrides: Overrides = None,
    split: Annotated[Literal["eval", "train"], typer.Option("--split", help="Held-out or trained samples.")] = "eval",
    max_samples: Annotated[int | None, typer.Option("--max-samples", min=1, help="Only the first N samples.")] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Write a JSON file as well.")] = None,
) -> None:
    """Show loss and perplexity by channel, of a base model or of an adapter beside its base model."""
    from gptoss_ft.subject import find_subject

    with errors_shown():
        subject = find_subject(model, config, overrides or [])
    with errors_shown(subject.loaded.source), subject.in_use():
        from gptoss_ft.inference import evaluate_command

        evaluate_command.evaluate(subject, split, max_samples, output)


@app.command()
def generate(
    model: SubjectName = None,
    config: SubjectConfig = None,
    overrides: Overrides = None,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="One question.")] = None,
    messages: Annotated[
        Path | None,
        typer.Option("--messages", metavar="FILE.json", help='A list of messages, or {"messages": […], "tools": […]}.'),
    ] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            "--batch",
            metavar="FILE.jsonl",
            help='A question a line: {"prompt": "…"} or {"messages": […]}, and "reasoning_effort"; '
            "--output keeps other keys.",
        ),
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Answer line by line; /help lists its commands.")] = False,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="System (developer) message, unless there is one.")
    ] = None,
    effort: Annotated[
        Literal["low", "medium", "high", "all"] | None,
        typer.Option(
            "--reasoning-effort", help="By default the question's, else the config's; all asks at each of the three."
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, max=10, help="By default evaluation.temperature; 0: none.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", min=0.001, max=1, help="By default evaluation.top_p.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 1024,
    seed: Annotated[int | None, typer.Option("--seed", min=0, max=2**32 - 1, help="By default training.seed.")] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE.jsonl", help="Write the answers.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions answered at once.")] = 8,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Show a single answer as it comes.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an --output that is there.")] = False,
) -> None:
    """Let a model answer. Without --prompt, --messages, --batch and --chat: a chat on a terminal, and elsewhere the
    standard input is the prompt."""
    from gptoss_ft.inference import command
    from gptoss_ft.subject import find_subject

    wanted = command.Wanted(
        prompt, messages, batch, chat, system, effort, temperature, top_p, max_new_tokens, seed, output, batch_size,
        stream, overwrite,
    )  # fmt: skip
    with errors_shown():
        subject = find_subject(model, config, overrides or [])
    with errors_shown(subject.loaded.source):
        command.generate(subject, wanted)


@app.command()
def export(
    form: Annotated[
        Literal["portable-adapter"] | None,
        typer.Option("--format", help="Write the adapter as stock transformers and PEFT take it, and verify it."),
    ] = None,
    check: Annotated[
        Literal["gguf", "vllm"] | None,
        typer.Option("--check", help="Look at all that llama.cpp's converter or vLLM reads of a merged model."),
    ] = None,
    model: SubjectName = None,
    config: SubjectConfig = None,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="New folder for the adapter; by default portable_adapter."),
    ] = None,
    keep_base: Annotated[
        Path | None,
        typer.Option("--keep-base", metavar="DIR", help="Keep the stock model that the adapter was verified on here."),
    ] = None,
) -> None:
    """Hand an adapter over, verified against the trained model; or check a merged model for llama.cpp and vLLM."""
    if (form is None) == (check is None):
        raise typer.BadParameter("give either --format or --check")
    from gptoss_ft.reporting.output_folder import MERGED_MODEL
    from gptoss_ft.subject import find_subject

    with errors_shown():
        subject = find_subject(model or (MERGED_MODEL if check else None), config, overrides or [])
    with errors_shown(subject.loaded.source), subject.in_use():
        from gptoss_ft.publishing import export as exporting

        if check is not None:
            exporting.check_export(subject, check)
        else:
            exporting.export_adapter(subject, output, keep_base)


@app.command()
def push(
    model: SubjectName = None,
    config: SubjectConfig = None,
    overrides: Overrides = None,
    repo: Annotated[
        str | None,
        typer.Option(
            "--repo",
            metavar="OWNER/NAME",
            help="Where to; by default hub.repo_id, of a merged model with -merged in place of -lora.",
        ),
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a new repository; by default hub.private.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Write the model's README.md anew first.")] = False,
) -> None:
    """Upload what was trained to the Hugging Face hub; the same command goes on with an upload that was cut off."""
    from gptoss_ft.subject import find_subject

    with errors_shown():
        subject = find_subject(model, config, overrides or [])
    with errors_shown(subject.loaded.source, UPLOAD_KEPT), subject.in_use():
        from gptoss_ft.publishing import push_command

        push_command.push_model(subject, repo, private, card)


@app.command()
def merge(
    model: SubjectName = None,
    config: SubjectConfig = None,
    overrides: Overrides = None,
    base: Annotated[
        Literal["trained", "original"],
        typer.Option("--base", help="Into the weights that were trained on, or those published in 16 bits or MXFP4."),
    ] = "trained",
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="By default merged_model in the run's folder.")
    ] = None,
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        typer.Option("--dtype", help="Of the weights that are written; by default what the run computed in."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a merged model that is there.")] = False,
) -> None:
    """Fold an adapter into its base model: a whole model that stock transformers loads. The same command continues an
    interrupted merge."""
    from gptoss_ft.subject import find_subject

    with errors_shown():
        subject = find_subject(model, config, overrides or [])
    with errors_shown(subject.loaded.source, FILES_KEPT), subject.in_use():
        from gptoss_ft.publishing import merge_command

        merge_command.merge_adapter(subject, base, output, dtype, overwrite)


@app.command()
def schema() -> None:
    """Write config.schema.json and docs/configuration.md from the schema, into the current folder."""
    for path in write_reference(Path()):
        typer.echo(path)


@contextmanager
def errors_shown(source: ConfigSource | None = None, interruption: Interruption = ANEW) -> Iterator[None]:
    """End the program with a `JobError`'s message and exit code; `source` knows the place of its key."""

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
        left, cure = interruption
        stop = Interrupted(f"at once; {left}", cure)
        _show(stop, None)
        raise typer.Exit(stop.exit_code) from None


def _show(error: JobError, source: ConfigSource | None) -> None:
    # `:100:` in a place is no emoji.
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    message = str(source.problem(error.key, error.message)) if source is not None and error.key else error.message
    label = "stopped" if isinstance(error, Interrupted) else "error"
    console.print(f"[bold red]{label}:[/] ", end="")
    console.print(redacted(message), markup=False)
    if error.cure:
        console.print(redacted(error.cure), markup=False, style="dim")


def main() -> None:
    """The entry of `train.py` and `python -m gptoss_ft`: without a command it trains."""
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] != "--help"):
        arguments = ["train", *arguments]
    try:
        app(arguments, prog_name="gptoss_ft")
    except Exception:
        # What Python would do, but for a secret in a library's exception.
        sys.stderr.write(redacted(traceback.format_exc()))
        sys.exit(ExitCode.DEFECT)
