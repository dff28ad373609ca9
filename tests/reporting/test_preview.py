"""What is trained as a person sees it: every number and every character is the data's own."""

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

from gptoss_ft.config import DatasetSection, JobConfig, ModelSection, TrainingSection
from gptoss_ft.data.entries import open_entries
from gptoss_ft.data.prepare import prepare
from gptoss_ft.data.rendering import IGNORED
from gptoss_ft.data.storage import PreparedData
from gptoss_ft.data.summary import SourceSummary, SplitSummary, Summary
from gptoss_ft.data.tokenizer import load_tokenizer
from gptoss_ft.errors import OutputError
from gptoss_ft.reporting.console import make_console, visible
from gptoss_ft.reporting.preview import in_brackets, show_preview, write_html
from gptoss_ft.reporting.preview_numbers import bar, channel_rows, counts, histogram, plan
from gptoss_ft.reporting.preview_samples import LONGEST_CONTEXT, SampleReader

Row = dict[str, Any]


@pytest.fixture(scope="module")
def harmony(tiny_gpt_oss: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_gpt_oss), None, None)


@pytest.fixture(scope="module")
def chatml(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(tiny_llama), None, None)


def talk(question: str, answer: str, thinking: str | None = None) -> list[Row]:
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer, "thinking": thinking},
    ]


def job_on(
    folder: Path,
    rows: list[Row],
    model: str = "tiny/gpt-oss",
    max_seq_length: int = 1024,
    training: Row | None = None,
    **settings: Any,
) -> JobConfig:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return JobConfig(
        dataset=DatasetSection(path=str(path), **{"prompt_date": None, **settings}),
        model=ModelSection(name=model, max_seq_length=max_seq_length),
        training=TrainingSection(**(training or {})),
    )


def prepared(job: JobConfig, tokenizer: PreTrainedTokenizerBase) -> PreparedData:
    return prepare(job, open_entries(job), tokenizer)


def plain(data: PreparedData, tokenizer: PreTrainedTokenizerBase, job: JobConfig, **settings: Any) -> str:
    stream = StringIO()
    show_preview(make_console(stream), data, tokenizer, job, **settings)
    return stream.getvalue()


def shown_samples(text: str) -> list[str]:
    """What is shown of each sample from its heading on."""
    return ["sample " + sample.rstrip("\n") for sample in text.split("\nsample ")[1:]]


# Samples.

SYSTEM = """\
── system · turn 1 (0 of 49 tokens trained)
<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.
Knowledge cutoff: 2024-06

Reasoning: medium

# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>
"""


def test_samples_as_text(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    job = job_on(tmp_path, [{"messages": talk("Hi", "Hello") + talk("Bye", "So", "Hm")}])
    first, second = shown_samples(plain(prepared(job, harmony), harmony, job))
    assert first == (
        f"sample 0: row 0 of {tmp_path}/rows.jsonl, 8 of 65 tokens trained\n"
        f"{SYSTEM}"
        "── user · turn 2 (0 of 6 tokens trained)\n"
        "<|start|>user<|message|>Hi<|end|>\n"
        "── assistant · final · turn 3 (8 of 10 tokens trained)\n"
        "<|start|>assistant⟦<|channel|>final<|message|>Hello<|return|>⟧"
    )
    assert second == (
        f"sample 1: row 0, its sample 1 of {tmp_path}/rows.jsonl, 14 of 88 tokens trained\n"
        f"{SYSTEM}"
        "── user · turn 2 (0 of 6 tokens trained)\n"
        "<|start|>user<|message|>Hi<|end|>\n"
        "── assistant · final · turn 3 (0 of 10 tokens trained)\n"
        "<|start|>assistant<|channel|>final<|message|>Hello<|end|>\n"
        "── user · turn 4 (0 of 7 tokens trained)\n"
        "<|start|>user<|message|>Bye<|end|>\n"
        "── assistant · analysis · turn 5 (6 of 8 tokens trained)\n"
        "<|start|>assistant⟦<|channel|>analysis<|message|>Hm<|end|>⟧\n"
        "── assistant · final · turn 6 (8 of 8 tokens trained)\n"
        "⟦<|start|>assistant<|channel|>final<|message|>So<|return|>⟧"
    )


def test_a_label_that_differs_is_shown(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    job = job_on(tmp_path, [{"messages": talk("Hi", "Hello") + talk("Bye", "So")}])
    (sample,) = shown_samples(plain(prepared(job, harmony), harmony, job))
    assert "<|start|>assistant⟦<|channel|>final<|message|>Hello<|end|>→<|return|>⟧\n" in sample
    assert sample.endswith("<|start|>assistant⟦<|channel|>final<|message|>So<|return|>⟧")


def test_chatml(chatml: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    job = job_on(tmp_path, [{"messages": talk("Hi", "Hello") + talk("Bye", "So")}], "tiny/llama")
    (sample,) = shown_samples(plain(prepared(job, chatml), chatml, job))
    assert sample.split("\n", 1)[1] == (
        "── context (0 of 10 tokens trained)\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n\n"
        "── assistant · answer · turn 1 (5 of 5 tokens trained)\n"
        "⟦Hello<|im_end|>⟧\n"
        "── context (0 of 12 tokens trained)\n"
        "\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n\n"
        "── assistant · answer · turn 2 (3 of 3 tokens trained)\n"
        "⟦So<|im_end|>⟧\n"
        "── context (0 of 1 tokens trained)\n"
    ).rstrip("\n")


def test_plain_text(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    job = job_on(tmp_path, [{"text": "Hello"}], format="custom")
    data = prepared(job, harmony)
    text = plain(data, harmony, job)
    (sample,) = shown_samples(text)
    assert sample.endswith("── text · turn 1 (5 of 5 tokens trained)\n⟦Hello<|endoftext|>⟧")
    assert "1 samples, trained whole" in text


def test_typed_tokens_and_markup_are_text(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    question, answer = "[bold]a[/bold] <|end|> [/] :smile:", "<script>alert(1)</script> & \\[red]"
    job = job_on(tmp_path, [{"messages": talk(question, answer)}])
    (sample,) = shown_samples(plain(prepared(job, harmony), harmony, job))
    assert "; <|end|> in it is typed text)\n" in sample
    assert sample.count("typed text") == 1
    assert f"<|start|>user<|message|>{question}<|end|>\n" in sample
    assert sample.endswith(f"<|message|>{answer}<|return|>⟧")


def test_characters_of_several_tokens_are_whole(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    answer = "naïve 𓂀 日本語 👩‍🚀 \ufffd end"
    job = job_on(tmp_path, [{"messages": talk("Ω", answer)}])
    data = prepared(job, harmony)
    (sample,) = shown_samples(plain(data, harmony, job))
    assert sample.endswith(f"<|message|>{answer}<|return|>⟧")
    (shown,) = SampleReader(harmony).samples(data.train, data.summary, 1)
    pieces = {piece.text: len(piece.ids) for piece in shown.passages[-1].pieces}
    assert pieces["𓂀"] == 4
    assert [text for text in pieces if "\ufffd" in text] == ["\ufffd en"]


@given(answer=st.text(min_size=1, max_size=30).filter(str.strip))
def test_any_answer_is_shown_as_it_is(harmony: PreTrainedTokenizerBase, answer: str) -> None:
    ids = np.array(harmony.encode(answer, add_special_tokens=False, split_special_tokens=True), np.int32)
    (passage,) = SampleReader(harmony)._passages(ids, ids)
    assert "".join(piece.text for piece in passage.pieces) == visible(answer)
    assert [id_ for piece in passage.pieces for id_ in piece.ids] == ids.tolist()


def test_a_character_that_is_cut_is_shown_as_such(harmony: PreTrainedTokenizerBase) -> None:
    ids = np.array(harmony.encode("a𓂀")[:-1], np.int32)
    (passage,) = SampleReader(harmony)._passages(ids, ids)
    assert in_brackets(passage.pieces) == "⟦a\ufffd⟧"


def test_control_characters_are_shown_as_escapes() -> None:
    assert visible("a\x1b[31mb\r\n\t\x00\u202ec") == "a\\x1b[31mb\\r\n\t\\x00\\u202ec"


def test_long_context_is_shortened_in_its_middle(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    words = " ".join(f"{number}" for number in range(100, 400))
    job = job_on(tmp_path, [{"messages": talk(words, words)}], max_seq_length=4096)
    data = prepared(job, harmony)
    (sample,) = SampleReader(harmony).samples(data.train, data.summary, 1)
    question, answer = sample.passages[1:]
    tokens = count(harmony, words) + 4
    shown = "".join(piece.text for piece in question.pieces)
    assert f" … {tokens - LONGEST_CONTEXT:,} tokens … " in shown
    assert shown.startswith("<|start|>user<|message|>100 101 102") and shown.endswith("398 399<|end|>")
    assert sum(len(piece.ids) for piece in question.pieces) == LONGEST_CONTEXT
    assert question.heading.endswith(f"(0 of {tokens} tokens trained)")
    assert in_brackets(answer.pieces) == f"<|start|>assistant⟦<|channel|>final<|message|>{words}<|return|>⟧"


def test_a_cut_goes_through_no_character(harmony: PreTrainedTokenizerBase) -> None:
    reader = SampleReader(harmony)
    for before in range(4):
        ids = np.array(harmony.encode("a" * before + "𓂀" * 200), np.int32)
        (passage,) = reader._passages(ids, np.full(len(ids), IGNORED, np.int32))
        (gap,) = (piece for piece in passage.pieces if not piece.ids)
        hidden = len(ids) - sum(len(piece.ids) for piece in passage.pieces)
        assert gap.text == f" … {hidden:,} tokens … "
        assert set("".join(piece.text for piece in passage.pieces if piece.ids)) <= {"a", "𓂀"}


def count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False))


def test_colour_in_place_of_brackets(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    job = job_on(tmp_path, [{"messages": talk("Hi", "Hello")}])
    data = prepared(job, harmony)
    stream = StringIO()
    console = Console(file=stream, force_terminal=True, color_system="standard", width=100, _environ={})
    show_preview(console, data, harmony, job)
    text = stream.getvalue()
    assert "⟦" not in text
    assert "\x1b[1;30;42mHello\x1b[0m" in text
    assert "\x1b[2mHi\x1b[0m" in text


def test_no_more_samples_than_wanted(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    job = job_on(tmp_path, [{"messages": talk("Hi", f"{number}")} for number in range(5)])
    data = prepared(job, harmony)
    assert len(shown_samples(plain(data, harmony, job))) == 3
    assert len(shown_samples(plain(data, harmony, job, samples=9))) == 5
    assert "training: 0 of 5 samples\n" in plain(data, harmony, job, samples=0)


def test_an_empty_evaluation(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    job = job_on(tmp_path, [{"messages": talk("Hi", "Hello")}])
    text = plain(prepared(job, harmony), harmony, job, split="eval")
    assert text.endswith("evaluation: 0 of 0 samples\n")
    assert "  evaluation        none\n" in text


def test_samples_of_the_evaluation(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    rows = [{"messages": talk("Hi", f"{number}")} for number in range(4)]
    job = job_on(tmp_path, rows, eval_fraction=0.25)
    data = prepared(job, harmony)
    text = plain(data, harmony, job, split="eval")
    (sample,) = shown_samples(text)
    assert sample.startswith(f"sample 0: row {data.eval['source_row'][0]} of")
    assert "evaluation: 1 of 1 samples\n" in text


# Numbers.


def summary_of(lengths: dict[int, int], limit: int = 1024, **split: Any) -> Summary:
    return Summary(
        key="", tokenizer="", max_seq_length=limit, rendered_lengths=Counter(lengths), train=SplitSummary(**split)
    )


def test_counts(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    rows: list[Row] = [{"messages": talk("Hi", f"{number}", "Hm")} for number in range(3)]
    rows += [{"messages": talk("Hi", "")}, {"messages": talk("Hi", "word " * 90)}]
    job = job_on(tmp_path, rows, max_seq_length=100, on_invalid="drop")
    data = prepared(job, harmony)
    values = counts(data.summary)
    tokens = sum(len(ids) for ids in data.train["input_ids"].to_pylist())
    learned = sum(label != IGNORED for labels in data.train["labels"].to_pylist() for label in labels)
    length = sum(data.summary.rendered_lengths) - len(data.train["input_ids"][0])
    assert values == {
        "source": f"{tmp_path}/rows.jsonl: 5 rows, of which 3 are kept",
        "  invalid: empty answer": "1 rows left out: "
        f"row 3 ({tmp_path}/rows.jsonl:4): message 2: the assistant's answer is empty",
        "  longer than max_seq_length": f"1 rows left out: row 4 ({tmp_path}/rows.jsonl:5): {length} tokens",
        "  samples left out": "1 longer than max_seq_length",
        "training": f"3 samples of 3 rows, {tokens} tokens, of which {learned} "
        f"({100 * learned / tokens:.1f} %) are trained",
        "evaluation": "none",
        "reasoning effort": "3 medium",
        "plain texts": "none",
    }
    assert channel_rows(data.summary.train) == [
        ("analysis", "24", "61.5 %"),
        ("final", "15", "38.5 %"),
        ("all", "39", "100.0 %"),
    ]


def test_counts_of_several_sources_and_cut_answers() -> None:
    summary = summary_of({5: 1}, samples=1, rows=1, tokens=4, trained_tokens=1)
    summary.sources = [
        SourceSummary(description="a", fingerprint="", rows=9, kept=2, truncated=3, cut_answers=1),
        SourceSummary(
            description="b",
            fingerprint="",
            rows=1_000,
            dropped=Counter({"bad": 7}),
            examples={"bad": ["row 1", "row 2"]},
        ),
    ]
    values = counts(summary)
    assert values["rows"] == "1,009, of which 2 are kept"
    assert values["source 0"] == "a: 9 rows, of which 2 are kept"
    assert values["  0: truncated"] == "3 samples; 1 answers lost their end"
    assert values["  1: bad"] == "7 rows left out: row 1; row 2; …"


@pytest.mark.parametrize(
    ("training", "a_pass", "run", "tokens"),
    [
        (
            {"max_steps": 20},
            "36",
            "20 steps (training.max_steps), 0.56 epochs",
            "about 4,000 in the run, 200 in a step",
        ),
        ({"max_steps": 72}, "36", "72 steps (training.max_steps), 2 epochs", "about 14,400 in the run, 200 in a step"),
        (
            {"num_train_epochs": 1.51, "per_device_train_batch_size": 5, "gradient_accumulation_steps": 2},
            "15",
            "1.51 epochs (training.num_train_epochs), 23 steps",
            "about 11,040 in the run, 480 in a step",
        ),
    ],
)
def test_the_length_of_the_run(training: Row, a_pass: str, run: str, tokens: str) -> None:
    job = JobConfig(training=TrainingSection(**training))
    values = plan(summary_of({5: 144}, samples=144, trained_tokens=7200), job)
    assert (values["steps in an epoch"], values["the run"], values["trained tokens"]) == (a_pass, run, tokens)


def test_steps_are_counted_as_the_trainer_counts_them(tmp_path: Path) -> None:
    for samples in (1, 7, 8, 9, 30):
        for micro, accumulation in ((1, 4), (3, 2), (4, 1), (8, 8)):
            lengths = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation}
            arguments = TrainingArguments(
                str(tmp_path), use_cpu=True, report_to="none", num_train_epochs=2.5, **lengths
            )
            trainer = Trainer(torch.nn.Linear(1, 1), arguments, train_dataset=list(range(samples)))
            _, a_pass, _, _, _, _, steps = trainer.set_initial_training_values(
                arguments, trainer.get_train_dataloader()
            )
            job = JobConfig(training=TrainingSection(num_train_epochs=2.5, **lengths))
            values = plan(summary_of({5: samples}, samples=samples, trained_tokens=samples), job)
            assert values["steps in an epoch"] == f"{a_pass}"
            assert values["the run"].endswith(f", {steps} steps")


def test_the_histogram_holds_every_sample_once() -> None:
    shown = histogram(summary_of({3: 2, 57: 5, 99: 1, 101: 4}, limit=100))
    assert shown.title == "12 samples by length in tokens, 4 longer than max_seq_length 100"
    assert [(bin_.first, bin_.last, bin_.samples) for bin_ in shown.bins if bin_.samples] == [
        (0, 9, 2),
        (50, 59, 5),
        (90, 99, 1),
        (100, 109, 4),
    ]
    assert [bin_.marks for bin_ in shown.bins if bin_.marks] == [
        ("50 % ≤ 57",),
        ("90 % ≤ 101", "99 % ≤ 101", "max_seq_length 100"),
    ]


def test_a_few_very_long_samples_share_a_bin() -> None:
    shown = histogram(summary_of({**dict.fromkeys(range(100, 300), 1), 90_000: 1}))
    assert [bin_.label for bin_ in shown.bins] == [
        *(f"{first} – {first + 19}" for first in range(100, 300, 20)),
        "300 – 90,000",
    ]
    assert shown.bins[-1] == type(shown.bins[-1])(300, 90_000, 1, ("max_seq_length 1,024",))


@given(st.dictionaries(st.integers(1, 10**6), st.integers(1, 10**6), min_size=1), st.integers(16, 10**6))
def test_any_lengths_make_a_small_histogram(lengths: dict[int, int], limit: int) -> None:
    shown = histogram(summary_of(lengths, limit))
    assert sum(bin_.samples for bin_ in shown.bins) == sum(lengths.values())
    assert len(shown.bins) <= 12
    for before, after in zip(shown.bins[:-1], shown.bins[1:], strict=True):
        assert before.last + 1 == after.first
    assert sum("%" in mark for bin_ in shown.bins for mark in bin_.marks) == 3


@pytest.mark.parametrize(
    ("share", "blocks"), [(0, ""), (1e-9, "▏"), (0.5, "█" * 20), (41 / 320, "█" * 5 + "▏"), (1, "█" * 40)]
)
def test_bars(share: float, blocks: str) -> None:
    assert bar(share) == blocks


def test_numbers_on_the_screen(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    job = job_on(tmp_path, [{"messages": talk("Hi", "Hello")}, {"messages": talk("Hi", "Bye")}])
    text = plain(prepared(job, harmony), harmony, job)
    assert (
        "\n  training   trained tokens     share\n"
        "  final                  15   100.0 %\n"
        "  all                    15   100.0 %\n"
        "2 samples by length in tokens, 0 longer than max_seq_length 1,024\n"
    ) in "\n".join(line.rstrip() for line in text.splitlines())
    assert f"  64  1 {'█' * 40}  ← 50 % ≤ 64\n" in text
    assert f"  65  1 {'█' * 40}  ← 90 % ≤ 65, 99 % ≤ 65\n" in text
    assert "  the run            20 steps (training.max_steps), 20 epochs\n" in text


# The page.


class Page(HTMLParser):
    """Reads a page: its open elements must close, and its text is kept where it can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.text = ""
        self.titles: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        given = dict(attrs)
        self.titles += [given["title"] or ""] if "title" in given else []
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


def page_of(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def test_the_page_shows_the_samples_as_they_are(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    question, answer = "\n<b>a</b> <|end|> </pre> &amp; 日本語", "[bold]<script>alert('1')</script> \"𓂀\" {{ 1 }}"
    job = job_on(tmp_path, [{"messages": talk(question, answer) + talk("Bye", "So")}])
    data = prepared(job, harmony)
    path = tmp_path / "preview.html"
    write_html(path, data, harmony, job)
    page = page_of(path)
    assert page.tags["script"] == page.tags["b"] == 0
    # A browser drops the line end that opens a pre.
    assert f"\n<|start|>user<|message|>{question}<|end|>\n" in page.text
    assert f"<|start|>assistant<|channel|>final<|message|>{answer}<|end|>→<|return|>\n" in page.text
    assert "assistant · final · turn 3 (" in page.text
    assert f"{tmp_path}/rows.jsonl: 1 rows, of which 1 are kept" in page.text
    assert "steps in an epoch" in page.text and "1 samples by length in tokens" in page.text
    assert page.addresses == []


def test_every_token_of_the_page_says_what_it_is(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    job = job_on(tmp_path, [{"messages": talk("Hi", "Hello") + talk("Bye", "So")}])
    data = prepared(job, harmony)
    path = tmp_path / "preview.html"
    write_html(path, data, harmony, job)
    ids, labels = (data.train[name][0].as_py() for name in ("input_ids", "labels"))
    assert page_of(path).titles == [
        f"id {id_}; label {label}, not trained" if label == IGNORED else f"id {id_}; label {label}; final"
        for id_, label in zip(ids, labels, strict=True)
    ]
    end, return_ = (harmony.convert_tokens_to_ids(name) for name in ("<|end|>", "<|return|>"))
    differing = f'<span class="t c" title="id {end}; label {return_}; final">&lt;|end|&gt;→&lt;|return|&gt;</span>'
    assert path.read_text(encoding="utf-8").count(differing) == 1


def test_the_pages_histogram_is_a_drawing(harmony: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    job = job_on(tmp_path, [{"messages": talk("Hi", "Hello")}])
    data = prepared(job, harmony)
    path = tmp_path / "preview.html"
    write_html(path, data, harmony, job)
    text = path.read_text(encoding="utf-8")
    drawing = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + len("</svg>")])
    assert [bar_.get("width") for bar_ in drawing.iter("rect")] == ["400.0"]
    assert ["".join(label.itertext()) for label in drawing.iter("text")] == [
        "65",
        "1 ← 50 % ≤ 65, 90 % ≤ 65, 99 % ≤ 65",
    ]


def test_the_page_holds_no_more_samples_than_wanted(chatml: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    job = job_on(tmp_path, [{"messages": talk("Hi", f"{number}")} for number in range(5)], "tiny/llama")
    write_html(tmp_path / "preview.html", prepared(job, chatml), chatml, job, samples=2)
    assert page_of(tmp_path / "preview.html").tags["section"] == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["missing/preview.html", "rows.jsonl/preview.html", ""])
def test_a_page_that_cannot_be_written(harmony: PreTrainedTokenizerBase, tmp_path: Path, name: str) -> None:
    job = job_on(tmp_path, [{"messages": talk("Hi", "Hello")}])
    data = prepared(job, harmony)
    with pytest.raises(OutputError) as caught:
        write_html(tmp_path / name, data, harmony, job)
    assert str(caught.value).startswith(f"{tmp_path / name} cannot be written: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]
