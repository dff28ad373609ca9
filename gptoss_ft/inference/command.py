"""The command `generate`: what is asked is read before the model is loaded, and answered after."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from gptoss_ft.config import JobConfig
from gptoss_ft.data.conversation import Effort
from gptoss_ft.errors import ConfigError, Interrupted, OutputError, Problem
from gptoss_ft.inference.prompts import Question, answer_prefix, ask, read_batch, read_messages_file
from gptoss_ft.reporting.console import counted, make_console
from gptoss_ft.reporting.files import refuse_unwritable, write_json_lines
from gptoss_ft.subject import Subject, in_memory

if TYPE_CHECKING:  # these import transformers, which Unsloth must come before
    from gptoss_ft.inference.answers import Answer
    from gptoss_ft.inference.generate import Generator, Sampling
    from gptoss_ft.inference.watching import GenerationStats

EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")


@dataclass(frozen=True)
class Wanted:
    """The command line of `generate`. None for a temperature, a share or a seed takes the config's."""

    prompt: str | None = None
    messages: Path | None = None
    batch: Path | None = None
    chat: bool = False
    system: str | None = None
    effort: Literal["low", "medium", "high", "all"] | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int = 1024
    seed: int | None = None
    output: Path | None = None
    batch_size: int = 8
    streams: bool = True
    overwrite: bool = False

    @property
    def efforts(self) -> tuple[Effort | None, ...]:
        """The efforts at which each question is asked; None is the config's."""
        return EFFORTS if self.effort == "all" else (self.effort,)


def read_questions(wanted: Wanted) -> list[Question] | None:
    """What is asked; None for a chat, which is what a terminal gets where nothing is asked, and a pipe's text is the
    prompt. Raises `ConfigError` for options that exclude each other, `DataError` for files that cannot be read."""
    given = {
        "--prompt": wanted.prompt is not None,
        "--messages": wanted.messages is not None,
        "--batch": wanted.batch is not None,
        "--chat": wanted.chat,
    }
    named = [name for name, is_given in given.items() if is_given]
    if len(named) > 1:
        raise _refused(f"{' and '.join(named)} exclude each other")
    if wanted.prompt is not None:
        return [ask(wanted.prompt, wanted.system)]
    if wanted.messages is not None:
        return [read_messages_file(wanted.messages, wanted.system)]
    if wanted.batch is not None:
        return read_batch(wanted.batch, wanted.system)
    if not wanted.chat and not sys.stdin.isatty():
        return [ask(sys.stdin.read().strip(), wanted.system)]
    if wanted.output is not None:
        raise _refused("--output takes answers to --prompt, --messages or --batch; a chat has /save FILE.json")
    if wanted.effort == "all":
        raise _refused("--reasoning-effort all does not fit a chat, which has /effort LEVEL")
    return None


def _refused(message: str) -> ConfigError:
    return ConfigError([Problem("generate", message)], "python train.py generate --help tells the options.")


def generate(subject: Subject, wanted: Wanted) -> None:
    """Load the model and answer. Raises `JobError`."""
    questions = read_questions(wanted)
    if wanted.output is not None:
        _refuse_output(wanted.output, wanted)
        answer_prefix(questions or ())
    console = make_console()
    console.out(f"loading {subject.name}", style="dim", highlight=False)
    with in_memory(subject, console) as ready:
        from gptoss_ft.inference.generate import make_generator

        generator = make_generator(ready.model, ready.tokenizer, subject.job)
        if generator.reader.note is not None:
            console.out(generator.reader.note, style="dim", highlight=False)
        sampling = _sampling(wanted, subject.job)
        if questions is None:
            _chat(generator, sampling, wanted, console)
        else:
            _answer_all(generator, sampling, wanted, questions, console)


def _refuse_output(output: Path, wanted: Wanted) -> None:
    """Raise `OutputError` where `output` cannot be written, is there, or is a file that is read."""
    refuse_unwritable(output)
    if any(file is not None and output.exists() and output.samefile(file) for file in (wanted.batch, wanted.messages)):
        raise OutputError(f"{output} holds the questions", "Name another file with --output.")
    if output.exists() and not wanted.overwrite:
        raise OutputError(f"{output} is there already", "Pass --overwrite to replace it, or name another --output.")


def _sampling(wanted: Wanted, job: JobConfig) -> "Sampling":
    from gptoss_ft.inference.generate import Sampling

    configured = job.evaluation
    return Sampling(
        temperature=configured.temperature if wanted.temperature is None else wanted.temperature,
        top_p=configured.top_p if wanted.top_p is None else wanted.top_p,
        max_new_tokens=wanted.max_new_tokens,
        seed=job.training.seed if wanted.seed is None else wanted.seed,
    )


def _chat(generator: "Generator", sampling: "Sampling", wanted: Wanted, console: Console) -> None:
    from gptoss_ft.inference.chat import Chat

    Chat(generator, sampling, console, wanted.efforts[0], wanted.system, wanted.streams).run(sys.stdin)


def _answer_all(
    generator: "Generator", sampling: "Sampling", wanted: Wanted, questions: Sequence[Question], console: Console
) -> None:
    from gptoss_ft.inference.screen import show_stats

    asked = [question if effort is None else question.at(effort) for question in questions for effort in wanted.efforts]
    if wanted.streams and len(asked) == 1:
        answers = [_streamed(generator, sampling, asked[0], console)]
    else:
        with _keeping_what_was_answered(asked, wanted.output, console) as so_far:
            answers, stats = _batched(generator, sampling, asked, wanted.batch_size, console, so_far)
        if wanted.output is None or len(questions) == 1:
            _show(console, answers, wanted)
        show_stats(console, stats, answers[0].stop if len(answers) == 1 else None)
    if wanted.output is not None:
        _write(wanted.output, asked, dict(enumerate(answers)), console)


def _write(output: Path, asked: Sequence[Question], answers: "Mapping[int, Answer]", console: Console) -> None:
    """Write the answers that there are, by the positions of their questions."""
    from gptoss_ft.inference.answers import row_of

    prefix = answer_prefix(asked)
    rows = [row_of(asked[at], answers[at], prefix) for at in sorted(answers)]
    write_json_lines(output, rows)
    verb = "is" if len(rows) == 1 else "are"
    named = f"; their keys begin with {prefix}, because the questions have such keys of their own" if prefix else ""
    console.out(f"{counted(len(rows), 'answer')} {verb} in {output}{named}", highlight=False)


@contextmanager
def _keeping_what_was_answered(
    asked: Sequence[Question], output: Path | None, console: Console
) -> "Iterator[dict[int, Answer]]":
    """A place for answers as they come; what ends them early leaves in `output` those that are there."""
    so_far: dict[int, Answer] = {}
    try:
        yield so_far
    except BaseException as error:
        if output is not None and so_far:
            _write(output, asked, so_far, console)
        if isinstance(error, KeyboardInterrupt):
            anew = " with --overwrite" if output is not None and so_far else ""
            raise Interrupted(
                f"after {len(so_far):,} of {len(asked):,} answers", f"The same command{anew} begins anew."
            ) from None
        raise


def _streamed(generator: "Generator", sampling: "Sampling", question: Question, console: Console) -> "Answer":
    from gptoss_ft.inference.screen import StreamedAnswer, show_stats
    from gptoss_ft.inference.watching import Watcher

    screen = StreamedAnswer(console, generator.reader.stream(), generator.ends)
    answers, stats = generator.answer([question], sampling, watch=Watcher(screen.token))
    screen.finish()
    show_stats(console, stats, answers[0].stop)
    return answers[0]


def _batched(
    generator: "Generator",
    sampling: "Sampling",
    questions: Sequence[Question],
    batch_size: int,
    console: Console,
    so_far: "dict[int, Answer]",
) -> "tuple[list[Answer], GenerationStats]":
    def progress(done: int, stats: "GenerationStats") -> None:
        if len(questions) > batch_size:
            console.out(
                f"  answered {done:,} of {len(questions):,}, {stats.tokens_per_second:,.1f} tokens/s", highlight=False
            )

    return generator.answer(questions, sampling, batch_size, progress=progress, so_far=so_far)


def _show(console: Console, answers: "Sequence[Answer]", wanted: Wanted) -> None:
    from gptoss_ft.inference.screen import show_answer, show_by_effort

    if wanted.effort == "all":
        for start in range(0, len(answers), len(EFFORTS)):
            if len(answers) > len(EFFORTS):
                console.out(f"{start // len(EFFORTS) + 1}", style="bold", highlight=False)
            show_by_effort(console, list(zip(EFFORTS, answers[start:], strict=False)))
        return
    for number, answer in enumerate(answers, start=1):
        if len(answers) > 1:
            console.out(f"{number}", style="bold", highlight=False)
        show_answer(console, answer)
