"""A conversation with the model: a line is a question, a line that begins with / a command."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from rich.console import Console

from gptoss_ft.data.conversation import Conversation, Effort, Message, RowError, is_effort
from gptoss_ft.data.messages import string
from gptoss_ft.errors import JobError
from gptoss_ft.inference.generate import Generator, Sampling
from gptoss_ft.inference.prompts import Question
from gptoss_ft.inference.screen import StreamedAnswer, show_answer, show_stats
from gptoss_ft.inference.watching import Watcher
from gptoss_ft.reporting.console import counted
from gptoss_ft.reporting.files import write_json

HELP = """\
/reset             forget the conversation, as /clear does
/effort LEVEL      low, medium or high reasoning effort
/system TEXT       another system message, and a new conversation
/save FILE.json    write the conversation; with a question added, --messages reads it
/exit              end, as /quit and ctrl-D do; ctrl-C ends the present answer alone"""
ENDS = ("/exit", "/quit")


@dataclass
class Chat:
    """A conversation and where it is held. `messages` begin with the system message where there is one."""

    generator: Generator
    sampling: Sampling
    console: Console
    effort: Effort | None = None
    system: str | None = None
    streams: bool = True
    messages: list[Message] = field(default_factory=list)

    def run(self, lines: TextIO) -> None:
        """Answer each line until the last one, /exit or /quit."""
        self.reset()
        self._say("an empty line is ignored; /help lists the commands")
        while line := self._next(lines):
            words = line.strip()
            if words in ENDS:
                return
            try:
                string(words, "the line")
                if words.startswith("/"):
                    self._obey(words)
                elif words:
                    self._ask(words)
            except RowError as error:
                self._say(str(error), "red")
            except JobError as error:
                self._say(f"{error.message}. {error.cure}".strip(), "red")

    def reset(self) -> None:
        self.messages = [] if self.system is None else [Message("system", self.system)]

    def _next(self, lines: TextIO) -> str:
        if lines.isatty():
            self.console.out("> ", end="", style="bold", highlight=False)
        return lines.readline()

    def _obey(self, words: str) -> None:
        name, _, argument = words.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/reset": lambda _: self.reset(),
            "/clear": lambda _: self.reset(),
            "/effort": self._set_effort,
            "/system": self._set_system,
            "/save": self._save,
            "/help": lambda _: self._say(HELP),
        }
        if name not in commands:
            self._say(f"there is no {name}; /help lists the commands")
            return
        commands[name](argument.strip())

    def _set_effort(self, level: str) -> None:
        if is_effort(level):
            self.effort = level
        else:
            self._say("wanted low, medium or high")

    def _set_system(self, text: str) -> None:
        self.system = text or None
        self.reset()

    def _save(self, file: str) -> None:
        if not file:
            self._say("wanted the name of a file")
            return
        try:
            write_json(Path(file).expanduser(), {"messages": [as_json(message) for message in self.messages]})
        except OSError as error:
            self._say(f"{file} cannot be written: {error.strerror}", "red")
        else:
            verb = "is" if len(self.messages) == 1 else "are"
            self._say(f"{counted(len(self.messages), 'message')} {verb} in {file}")

    def _ask(self, words: str) -> None:
        messages = (*self.messages, Message("user", words))
        question = Question(Conversation(messages, effort=self.effort), {}, "the conversation")
        said = self._answer(question)
        # Thinking alone is no answer that a conversation could go on from.
        if said.content or said.tool_calls:
            self.messages = [*messages, said]
        else:
            self._say("there is no answer yet: this question is left out of the conversation")

    def _answer(self, question: Question) -> Message:
        screen = StreamedAnswer(self.console, self.generator.reader.stream(), self.generator.ends)
        watch = Watcher(screen.token if self.streams else None)
        with ended_by_ctrl_c(watch):
            answers, stats = self.generator.answer([question], self.sampling, watch=watch)
        if self.streams:
            screen.finish()
        else:
            show_answer(self.console, answers[0])
        show_stats(self.console, stats, answers[0].stop)
        return answers[0].as_message()

    def _say(self, words: str, style: str = "dim") -> None:
        self.console.out(words, style=style, highlight=False)


def as_json(message: Message) -> dict[str, Any]:
    """A message in OpenAI's form, with its thinking, as --messages reads it."""
    written: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking is not None:
        written["thinking"] = message.thinking
    if message.tool_calls:
        written["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return written


@contextmanager
def ended_by_ctrl_c(watch: Watcher) -> Iterator[None]:
    """ctrl-C ends the present answer; a second one before it has ended raises `KeyboardInterrupt`, as ever."""

    def end(number: int, frame: FrameType | None) -> None:
        if watch.is_stopped:
            raise KeyboardInterrupt
        watch.stop()

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
