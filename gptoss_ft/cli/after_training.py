"""Commands that use what was trained: evaluate, generate, export, push, merge."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from gptoss_ft.cli.ending import FILES_KEPT, UPLOAD_KEPT, errors_shown
from gptoss_ft.cli.options import Overrides, SubjectConfig, SubjectName


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
