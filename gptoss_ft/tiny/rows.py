"""The sample rows: small, ours, and the same on every machine.

Row `i` is a function of `i` alone. There is no random generator, so there is no seed and no library whose stream
could change.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from gptoss_ft.tiny.phrases import LANGUAGES, PERSONAS, Language, Phrase

ROWS = 144  # 3 kinds of question x 6 languages x 8 rounds
KINDS = 3

Row = dict[str, Any]


def multilingual_thinking() -> list[Row]:
    """Rows in the schema of HuggingFaceH4/Multilingual-Thinking: asked in one language, thought about in another."""
    return [_thinking_row(i) for i in range(ROWS)]


def finetome() -> list[Row]:
    """Rows in the schema of mlabonne/FineTome-100k: `conversations` of from/value.

    1 to 4 exchanges of human and gpt; every fifth row opens with a system turn.
    """
    return [_conversation_row(i) for i in range(ROWS)]


def text() -> list[Row]:
    """Rows of one column, `text`: a heading and one to three answers to the same kind of question."""
    return [_text_row(i) for i in range(ROWS)]


DATASETS: Mapping[str, Callable[[], list[Row]]] = {
    "tiny/multilingual-thinking": multilingual_thinking,
    "tiny/finetome": finetome,
    "tiny/text": text,
}


def as_jsonl(rows: list[Row]) -> bytes:
    """UTF-8 JSON Lines, one object a line, keys in the order of the schema."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _thinking_row(i: int) -> Row:
    reasoning = LANGUAGES[i // KINDS % len(LANGUAGES)]
    asked = LANGUAGES[(i // KINDS + i // (KINDS * len(LANGUAGES))) % len(LANGUAGES)]
    developer = PERSONAS[i // 5 % len(PERSONAS)]
    user = _fill(i, asked).question
    analysis = _fill(i, asked, told_in=reasoning).thought
    final = _fill(i, asked).answer
    return {
        "reasoning_language": reasoning.name,
        "developer": developer,
        "user": user,
        "analysis": analysis,
        "final": final,
        "messages": [
            {
                "content": f"reasoning language: {reasoning.name}\n\n{developer}",
                "role": "system",
                "thinking": None,
            },
            {"content": user, "role": "user", "thinking": None},
            {"content": final, "role": "assistant", "thinking": analysis},
        ],
    }


def _conversation_row(i: int) -> Row:
    language = LANGUAGES[i // KINDS % len(LANGUAGES)]
    turns = [{"from": "system", "value": PERSONAS[i // 5 % len(PERSONAS)]}] if i % 5 == 0 else []
    for exchange in range(1 + i // (KINDS * len(LANGUAGES)) % 4):
        phrase = _fill(i + 7 * exchange, language)
        turns.append({"from": "human", "value": phrase.question})
        turns.append({"from": "gpt", "value": phrase.answer})
    return {"conversations": turns, "source": "tiny", "score": 4.5 + i % 8 / 8}


def _text_row(i: int) -> Row:
    language = LANGUAGES[i // KINDS % len(LANGUAGES)]
    sentences = [_fill(i + KINDS * n, language).answer for n in range(1 + i // (KINDS * len(LANGUAGES)) % 3)]
    return {"text": f"# {language.name} {i + 1}\n\n" + " ".join(sentences)}


def _fill(i: int, asked: Language, told_in: Language | None = None) -> Phrase:
    """The `i`-th question about `asked`'s words, its sentences in `told_in` (default: in `asked` itself).

    The strides are coprime with the lengths that they walk, so that neighbouring rows differ.
    """
    spoken = told_in or asked
    kind = i % KINDS
    if kind == 0:
        a, b = 2 + 7 * i % 48, 3 + 5 * i % 46
        return _format(spoken.total, a=a, b=b, c=a + b)
    if kind == 1:
        day = 5 * (i // KINDS) % len(spoken.days)
        return _format(spoken.day, day=spoken.days[day], next=spoken.days[(day + 1) % len(spoken.days)])
    source = LANGUAGES.index(asked)
    target = (source + 1 + i // KINDS % (len(LANGUAGES) - 1)) % len(LANGUAGES)
    word = 3 * (i // KINDS) % len(asked.words)
    return _format(
        spoken.translation,
        word=asked.words[word],
        language=spoken.languages[target],
        translation=LANGUAGES[target].words[word],
    )


def _format(phrase: Phrase, **values: object) -> Phrase:
    return Phrase(*(sentence.format(**values) for sentence in (phrase.question, phrase.thought, phrase.answer)))
