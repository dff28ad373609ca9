"""The chat, read from a stream of lines and answered by the tiny model."""

import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_ft.config import load_job_config
from gptoss_ft.data.conversation import Message
from gptoss_ft.data.tokenizer import load_job_tokenizer
from gptoss_ft.inference.answers import Answer
from gptoss_ft.inference.chat import Chat, ended_by_ctrl_c
from gptoss_ft.inference.generate import Generator, Sampling, make_generator
from gptoss_ft.inference.prompts import read_messages_file
from gptoss_ft.inference.screen import AnswerScreen, show_answer, show_by_effort
from gptoss_ft.inference.streams import Piece
from gptoss_ft.inference.watching import Watcher
from gptoss_ft.model.loading import load_base
from gptoss_ft.model.repository import find_repository
from gptoss_ft.reporting.console import make_console
from gptoss_ft.runtime import Device

JOB = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking}
"""
THOUGHT = "<|channel|>analysis<|message|>mm<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>"


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory, device: Device) -> Generator:
    file = tmp_path_factory.mktemp("job") / "job.yaml"
    file.write_text(JOB)
    config = load_job_config(file, []).job
    model = load_base(config.model, find_repository(config.model), device, config.training)
    return make_generator(model, load_job_tokenizer(config.model), config)


@pytest.fixture
def speaks(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has the model's head say one text, token by token, whatever it is asked."""
    head = generator.model.lm_head
    forward = head.forward

    def speak(text: str) -> None:
        ids = generator.tokenizer.encode(text, add_special_tokens=False)
        step = 0

        def say(hidden: object) -> object:
            nonlocal step
            logits = forward(hidden)
            logits[:, -1, ids[step % len(ids)]] = 1e4
            step += 1
            return logits

        monkeypatch.setattr(head, "forward", say)

    return speak


Held = Callable[..., tuple[Chat, str]]


@pytest.fixture
def hold(generator: Generator) -> Held:
    """Holds a chat of these lines; returns it with what it said."""

    def run(*lines: str, system: str | None = None, streams: bool = True, most: int = 20) -> tuple[Chat, str]:
        out = io.StringIO()
        chat = Chat(generator, Sampling(max_new_tokens=most), make_console(out), system=system, streams=streams)
        chat.run(io.StringIO("".join(f"{line}\n" for line in lines)))
        return chat, out.getvalue()

    return run


def test_a_conversation_goes_on_and_thinking_before_the_question_is_gone(
    hold: Held, speaks: Callable[[str], None], generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaks(THOUGHT)
    prompts: list[str] = []
    generate = Generator._generate
    monkeypatch.setattr(
        Generator,
        "_generate",
        lambda self, ids, *rest: [prompts.append(self.tokenizer.decode(ids[0])), generate(self, ids, *rest)][1],
    )
    chat, said = hold("Hi", "", "  ", "And?", "/quit", "never")
    assert chat.messages == [
        Message("user", "Hi"), Message("assistant", "Hello", "mm"),
        Message("user", "And?"), Message("assistant", "Hello", "mm"),
    ]  # fmt: skip
    assert len(prompts) == 2
    assert prompts[1].endswith(
        "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>Hello<|end|>"
        "<|start|>user<|message|>And?<|end|><|start|>assistant"
    )
    assert said.count("analysis\nmm\nanswer\nHello\n") == 2
    assert "\x1b" not in said
    assert hold("Hi", streams=False)[1].count("analysis\nmm\nanswer\nHello\n") == 1


def test_commands(hold: Held, speaks: Callable[[str], None], tmp_path: Path) -> None:
    speaks(THOUGHT)
    file = tmp_path / "chat.json"
    chat, said = hold(
        "Hi", "/effort high", "/effort none", f"/save {file}", "/clear", "/nope", "/save", system="Be brief."
    )
    assert chat.effort == "high"
    assert chat.messages == [Message("system", "Be brief.")]
    assert "wanted low, medium or high" in said
    assert f"3 messages are in {file}" in said
    assert "there is no /nope" in said
    assert json.loads(file.read_text())["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello", "thinking": "mm"},
    ]
    messages = json.loads(file.read_text())["messages"]
    file.write_text(json.dumps([*messages, {"role": "user", "content": "More"}]))
    assert read_messages_file(file).conversation.messages[2] == Message("assistant", "Hello", "mm")
    assert hold("/system Sing.", "Hi")[0].messages[0] == Message("system", "Sing.")
    assert "cannot be written" in hold(f"/save {tmp_path}/nowhere/x.json")[1]


def test_thinking_that_is_cut_is_no_answer(hold: Held, speaks: Callable[[str], None]) -> None:
    speaks("<|channel|>analysis<|message|>mm mm mm mm mm mm mm mm")
    chat, said = hold("Hi", most=6)
    assert chat.messages == []
    assert "cut at the most new tokens" in said
    assert "this question is left out" in said


def test_a_mistake_does_not_end_the_chat(hold: Held, speaks: Callable[[str], None]) -> None:
    speaks(THOUGHT)
    chat, said = hold("x" * 40_000, "Hi")
    assert "are more than the 4,096 that the model takes" in said
    assert [message.content for message in chat.messages] == ["Hi", "Hello"]


def test_ctrl_c_ends_the_present_answer_alone(hold: Held, speaks: Callable[[str], None]) -> None:
    speaks("<|channel|>final<|message|>" + "la " * 50)
    seen = 0

    class Interrupting(io.StringIO):
        def write(self, text: str) -> int:
            nonlocal seen
            seen += "la" in text
            if seen == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(text)

    chat, _ = hold()
    chat.console, chat.sampling = make_console(out := Interrupting()), Sampling(max_new_tokens=200)
    before = signal.getsignal(signal.SIGINT)
    chat.run(io.StringIO("Sing\n/exit\n"))
    assert "; interrupted\n" in out.getvalue()
    assert len(chat.messages) == 2
    assert chat.messages[1].content.startswith("la la la")
    assert len(chat.messages[1].content) < 60
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_is_the_usual_one() -> None:
    with pytest.raises(KeyboardInterrupt), ended_by_ctrl_c(watch := Watcher()):
        os.kill(os.getpid(), signal.SIGINT)
        assert watch.is_stopped
        os.kill(os.getpid(), signal.SIGINT)


# The screen.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_thinking_dim_and_no_control_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    screen = AnswerScreen(make_console(out))
    for piece in [
        Piece("analysis", "", True),
        Piece("analysis", "[bold]:smile:\x1b[2J", False),
        Piece("call", "", True, "functions.f"),
        Piece("call", "{}", False, "functions.f"),
    ]:
        screen.show(piece)
    screen.end()
    shown = out.getvalue()
    assert "\x1b[2m[bold]:smile:\\x1b[2J\x1b[0m" in shown
    assert "call functions.f({})\n" in shown
    assert shown.index("analysis") < shown.index("smile") < shown.index("call")


def test_answers_are_side_by_side_on_a_wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    one, two = (Answer("", "mm", text, None, (), None, 3, 4, "return") for text in ("first", "second"))
    out = Terminal()
    show_by_effort(make_console(out), [("low", one), ("high", two)])
    assert any("first" in line and "second" in line for line in out.getvalue().splitlines())
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    show_by_effort(make_console(out), [("low", one), ("high", two)])
    assert not any("first" in line and "second" in line for line in out.getvalue().splitlines())
    plain = io.StringIO()
    show_answer(make_console(plain), one)
    assert plain.getvalue() == "analysis\nmm\nanswer\nfirst\n"
