"""Answers on the screen: thinking dim, the answer apart, calls as calls; plain text where it is no terminal."""

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptoss_ft.data.conversation import Effort
from gptoss_ft.inference.answers import Answer, Stop
from gptoss_ft.inference.streams import Kind, Piece, Stream
from gptoss_ft.inference.watching import GenerationStats
from gptoss_ft.reporting.console import visible

# Three columns narrower than this are hard to read.
WIDTH_SIDE_BY_SIDE = 100

HEADINGS: dict[Kind, str] = {
    "analysis": "analysis",
    "commentary": "commentary",
    "answer": "answer",
    "unread": "not in the model's format",
}
_STYLES: dict[Kind, str] = {"analysis": "dim", "commentary": "dim", "unread": "dim"}
_STOPS: dict[Stop, str] = {
    "length": "cut at the most new tokens",
    "interrupted": "interrupted",
    "call": "waits for the call's result",
}


class AnswerScreen:
    """Writes the pieces of one answer as they come."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._kind: Kind | None = None

    def show(self, piece: Piece) -> None:
        if piece.opens or self._kind is None:
            self.end()
            self._open(piece)
        self._kind = piece.kind
        self._write(piece.text, _STYLES.get(piece.kind))

    def end(self) -> None:
        """End the last line; another message may follow."""
        if self._kind is not None:
            self._write(")\n" if self._kind == "call" else "\n")
        self._kind = None

    def _open(self, piece: Piece) -> None:
        if piece.kind == "call":
            self._write(f"call {piece.recipient}(")
        else:
            self._write(f"{HEADINGS[piece.kind]}\n", "bold cyan")

    def _write(self, text: str, style: str | None = None) -> None:
        # Markup, emoji codes and control characters in what a model says are its words.
        self._console.out(visible(text), end="", style=style, highlight=False)


class StreamedAnswer:
    """What watches the tokens of one answer and shows them; `ends` are tokens that belong to no message."""

    def __init__(self, console: Console, stream: Stream, ends: Collection[int]) -> None:
        self._screen = AnswerScreen(console)
        self._stream = stream
        self._ends = ends

    def token(self, token: int) -> None:
        if token not in self._ends:
            self._show(self._stream.put(token))

    def finish(self) -> None:
        self._show(self._stream.finish())
        self._screen.end()

    def _show(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self._screen.show(piece)


def show_answer(console: Console, answer: Answer) -> None:
    """A finished answer as it would have been streamed."""
    screen = AnswerScreen(console)
    for piece in pieces_of(answer):
        screen.show(piece)
    screen.end()


def pieces_of(answer: Answer) -> list[Piece]:
    """An answer's messages: what was thought, said before a call, called, answered, and could not be read."""
    said: list[tuple[Kind, str | None]] = [
        ("analysis", answer.analysis),
        ("commentary", answer.commentary),
        ("answer", answer.final),
        ("unread", answer.unread),
    ]
    pieces = [Piece(kind, text, True) for kind, text in said if text is not None]
    return pieces + [Piece("call", call.arguments, True, call.recipient) for call in answer.calls]


def show_by_effort(console: Console, answers: Sequence[tuple[Effort, Answer]]) -> None:
    """The answers at each effort: side by side where there is a wide terminal, else one after the other."""
    if not console.is_terminal or console.width < WIDTH_SIDE_BY_SIDE:
        for effort, answer in answers:
            console.out(f"reasoning effort {effort}", style="bold", highlight=False)
            show_answer(console, answer)
        return
    show_side_by_side(console, [(f"reasoning effort {effort}", answer) for effort, answer in answers])


def show_side_by_side(console: Console, answers: Sequence[tuple[str, Answer]]) -> None:
    table = Table(expand=True)
    for title, _ in answers:
        table.add_column(title, ratio=1, overflow="fold")
    table.add_row(*(answer_in_words(answer) for _, answer in answers))
    console.print(table, soft_wrap=False)


def answer_in_words(answer: Answer) -> Text:
    """An answer as one text with its headings."""
    text = Text()
    for number, piece in enumerate(pieces_of(answer)):
        text.append("\n" if number else "")
        if piece.kind == "call":
            text.append(f"call {visible(piece.recipient)}({visible(piece.text)})")
        else:
            text.append(f"{HEADINGS[piece.kind]}\n", "bold cyan")
            text.append(visible(piece.text), _STYLES.get(piece.kind, ""))
    text.append(f"\n{answer.new_tokens:,} tokens{_ended(answer.stop)}", "dim")
    return text


def show_stats(console: Console, stats: GenerationStats, stop: Stop | None = None) -> None:
    """How much was generated how fast, and why a single answer ended where that is not its own end."""
    console.out(
        f"{stats.tokens:,} tokens, {stats.tokens_per_second:,.1f} tokens/s, "
        f"the first after {stats.first_token_seconds:.2f} s{_ended(stop)}",
        style="dim",
        highlight=False,
    )


def _ended(stop: Stop | None) -> str:
    return f"; {_STOPS[stop]}" if stop in _STOPS else ""
