"""Generation with the tiny models in float32, the command around it, and the samples before and after training."""

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from gptoss_ft import job
from gptoss_ft.config import LoadedConfig, load_job_config
from gptoss_ft.data.tokenizer import load_job_tokenizer
from gptoss_ft.errors import ConfigError, Interrupted, OutputError, SettingError
from gptoss_ft.inference import command
from gptoss_ft.inference.generate import Generator, Sampling, make_generator
from gptoss_ft.inference.prompts import ask
from gptoss_ft.inference.samples import SAMPLES, sample_answers, samples_before, show_samples
from gptoss_ft.inference.watching import Watcher
from gptoss_ft.model.building import build_model
from gptoss_ft.model.repository import find_repository
from gptoss_ft.reporting.console import make_console
from gptoss_ft.runtime import Device
from gptoss_ft.subject import find_subject

SMALL = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 24}
lora: {dropout: 0.1, target_modules: [q_proj, v_proj]}
training: {max_steps: 2, per_device_train_batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 1e-2,
           warmup_steps: 0, optim: adamw_torch_fused, output_dir: run}
tracking: {report_to: none}
"""
QUESTIONS = [
    ask("Hi"),
    ask("What is the capital of France, and why is it so far from here? " * 3),
    ask("Hm", "Be brief."),
]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedConfig]:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(SMALL)
    return lambda *overrides: load_job_config(Path("job.yaml"), overrides)


@pytest.fixture(scope="module", params=["tiny/gpt-oss", "tiny/llama"])
def generator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, device: Device) -> Generator:
    file = tmp_path_factory.mktemp("job") / "job.yaml"
    file.write_text(SMALL)
    config = load_job_config(file, [f"model.name={request.param}"]).job
    model = build_model(config, find_repository(config.model), device, make_console())
    return make_generator(model, load_job_tokenizer(config.model), config)


def test_a_padded_batch_says_what_each_prompt_alone_does(generator: Generator) -> None:
    greedy = Sampling(max_new_tokens=24)
    together, stats = generator.answer(QUESTIONS, greedy)
    in_two, _ = generator.answer(QUESTIONS, greedy, batch_size=2)
    alone = [generator.answer([question], greedy)[0][0] for question in QUESTIONS]
    assert together == in_two == alone
    assert len({answer.text for answer in together}) == 3
    assert stats.tokens == sum(answer.new_tokens for answer in together)
    assert 0 < stats.first_token_seconds < stats.seconds
    assert stats.tokens_per_second == pytest.approx(stats.tokens / stats.seconds)


def test_greedy_tokens_are_those_of_a_plain_loop(generator: Generator) -> None:
    """Derived once more without `generate`: the whole text is run through the model for each token."""
    [answer], _ = generator.answer(QUESTIONS[:1], Sampling(max_new_tokens=10))
    prompt = generator.prompt(QUESTIONS[0])
    ids = list(prompt)
    generator.model.eval()
    for _ in range(10):
        with torch.no_grad():
            ids.append(int(generator.model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in generator.stops:
            break
    assert answer.text == generator.tokenizer.decode(ids[len(prompt) :])
    assert (answer.prompt_tokens, answer.new_tokens) == (len(prompt), len(ids) - len(prompt))


def test_a_seed_decides_and_nothing_around_it_is_drawn(generator: Generator) -> None:
    def drawn(seed: int, top_p: float = 1.0, temperature: float = 1.0) -> list[str]:
        answers, _ = generator.answer(QUESTIONS, Sampling(temperature, top_p, 16, seed))
        return [answer.text for answer in answers]

    before = torch.get_rng_state()
    assert drawn(1) == drawn(1) != drawn(2)
    assert torch.equal(torch.get_rng_state(), before)
    greedy = [answer.text for answer in generator.answer(QUESTIONS, Sampling(max_new_tokens=16))[0]]
    # A share so small holds the likeliest token alone.
    assert drawn(1, top_p=1e-6) == greedy
    assert drawn(1, temperature=1e-4) == greedy


def test_it_ends_at_the_tokens_that_end_a_turn(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = generator.tokenizer.get_vocab()
    harmony = "<|return|>" in vocabulary
    stops = {"<|return|>": "return", "<|call|>": "call", "<|endoftext|>": "end"} if harmony else {"<|im_end|>": "end"}
    assert generator.stops == {vocabulary[name]: stop for name, stop in stops.items()}
    forward = generator.model.get_base_model().lm_head.forward
    for name, stop in stops.items():
        steps = 0

        def say(hidden: torch.Tensor, name: str = name) -> torch.Tensor:
            nonlocal steps
            steps += 1
            logits: torch.Tensor = forward(hidden)
            if steps == 5:
                logits[0, -1, vocabulary[name]] = 1e4
            return logits

        monkeypatch.setattr(generator.model.get_base_model().lm_head, "forward", say)
        first, second = generator.answer(QUESTIONS[:2], Sampling(max_new_tokens=9))[0]
        # The longer prompt is the first of the batch; the other goes on, and its row is not cut.
        assert (second.stop, second.new_tokens) == (stop, 5)
        assert (first.stop, first.new_tokens) == ("length", 9)
        assert second.text.endswith(name)


def test_nothing_is_warned_of(generator: Generator, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        generator.answer(QUESTIONS, Sampling(max_new_tokens=3))
        generator.answer(QUESTIONS, Sampling(0.7, 0.9, 3))
    assert [record.message for record in caplog.records] == []


def test_a_watcher_sees_every_token_and_can_end_the_answer(generator: Generator) -> None:
    seen: list[int] = []
    [answer], _ = generator.answer(QUESTIONS[:1], Sampling(max_new_tokens=8), watch=Watcher(seen.append))
    assert generator.tokenizer.decode(seen) == answer.text

    watch = Watcher(lambda token: watch.stop() if len(seen) == 3 else seen.append(token))
    seen.clear()
    [answer], _ = generator.answer(QUESTIONS[:1], Sampling(max_new_tokens=50), watch=watch)
    assert (answer.stop, answer.new_tokens) == ("interrupted", 5)


def test_what_the_model_cannot_take_is_refused(generator: Generator) -> None:
    with pytest.raises(SettingError, match=r"the prompt: \d+ tokens and 4,090 new ones are more than the 4,096"):
        generator.answer([ask("Hi")], Sampling(max_new_tokens=4090))


# The command.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def generate(
    load: Callable[..., LoadedConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs the command on the base model and returns what it says; `stdin` is what it is piped."""

    def run(stdin: io.StringIO | None = None, **wanted: Any) -> str:
        load()
        monkeypatch.setattr(sys, "stdin", stdin or io.StringIO())
        # From outside, so that it is not caught with the libraries' words.
        command.generate(find_subject("base", Path("job.yaml"), []), command.Wanted(max_new_tokens=8, **wanted))
        return capsys.readouterr().out

    return run


def test_a_prompt_is_answered_as_plain_text_on_a_pipe(generate: Callable[..., str]) -> None:
    said = generate(prompt="Hi")
    assert "\x1b" not in said
    assert re.search(r"\n8 tokens, [\d.,]+ tokens/s, the first after \d+\.\d\d s; cut at the most new tokens\n$", said)
    assert generate(prompt="Hi", streams=False).split("\n")[1:-2] == said.split("\n")[1:-2]
    assert generate(io.StringIO("Hi\n")).split("\n")[1:-2] == said.split("\n")[1:-2]


def test_all_efforts_are_asked_at_once(generate: Callable[..., str]) -> None:
    said = generate(prompt="Hi", effort="all", output=Path("all.jsonl"))
    assert [line for line in said.splitlines() if line.startswith("reasoning")] == [
        "reasoning effort low", "reasoning effort medium", "reasoning effort high",
    ]  # fmt: skip
    rows = [json.loads(line) for line in Path("all.jsonl").read_text().split("\n") if line]
    assert [row["effort"] for row in rows] == ["low", "medium", "high"]
    assert "24 tokens" in said


def test_a_batch_keeps_the_rows_and_their_order(generate: Callable[..., str]) -> None:
    rows = [{"prompt": "x" * length, "id": number} for number, length in enumerate((3, 90, 30, 1, 60))]
    Path("batch.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = generate(batch=Path("batch.jsonl"), output=Path("out.jsonl"), batch_size=2)
    assert re.findall(r"answered (\d) of 5", said) == ["2", "4", "5"]
    assert "5 answers are in out.jsonl" in said
    written = [json.loads(line) for line in Path("out.jsonl").read_text().split("\n") if line]
    assert [{"prompt": row["prompt"], "id": row["id"]} for row in written] == rows
    assert all(row["tokens"] <= 8 and row["stop"] and "answer" in row and "analysis" in row for row in written)
    assert not list(Path().glob(".out*"))


def test_no_file_is_lost_to_the_answers(generate: Callable[..., str]) -> None:
    Path("batch.jsonl").write_text('{"prompt": "Hi", "answer": "right"}\n')
    Path("link.jsonl").hardlink_to("batch.jsonl")
    for name in ("batch.jsonl", "link.jsonl"):
        with pytest.raises(OutputError, match=f"{name} holds the questions"):
            generate(batch=Path("batch.jsonl"), output=Path(name), overwrite=True)
    Path("out.jsonl").write_text("mine")
    with pytest.raises(OutputError, match=r"out.jsonl is there already") as raised:
        generate(batch=Path("batch.jsonl"), output=Path("out.jsonl"))
    assert "--overwrite" in raised.value.cure
    assert Path("out.jsonl").read_text() == "mine"
    said = generate(batch=Path("batch.jsonl"), output=Path("out.jsonl"), overwrite=True)
    assert "1 answer is in out.jsonl; their keys begin with generated_" in said
    [row] = [json.loads(line) for line in Path("out.jsonl").read_text().split("\n") if line]
    assert row["answer"] == "right"
    assert {"generated_answer", "generated_stop"} <= row.keys()


def test_a_row_is_asked_at_its_own_effort(generate: Callable[..., str]) -> None:
    Path("batch.jsonl").write_text('{"prompt": "Hi", "reasoning_effort": "high"}\n{"prompt": "Hi"}\n')
    asked = {}
    for effort in (None, "low"):
        generate(batch=Path("batch.jsonl"), output=Path("out.jsonl"), effort=effort, overwrite=True)
        rows = [json.loads(line) for line in Path("out.jsonl").read_text().split("\n") if line]
        asked[effort] = [row.get("effort") for row in rows]
    assert asked == {None: ["high", None], "low": ["low", "low"]}


def test_an_interrupted_batch_keeps_what_was_answered(
    generate: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": "x" * length} for length in (3, 90, 30, 1, 60)]
    Path("batch.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read, calls = Generator._read, iter(range(10))

    def interrupted(self: Generator, *arguments: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return read(self, *arguments)

    monkeypatch.setattr(Generator, "_read", interrupted)
    with pytest.raises(Interrupted, match="after 3 of 5 answers"):
        generate(batch=Path("batch.jsonl"), output=Path("out.jsonl"), batch_size=2)
    written = [json.loads(line)["prompt"] for line in Path("out.jsonl").read_text().split("\n") if line]
    # The longest are answered first, and written in the order in which they were asked.
    assert written == ["x" * 90, "x" * 30, "x" * 60]


def test_options_that_exclude_each_other(generate: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match="--prompt and --chat exclude each other"):
        generate(prompt="Hi", chat=True)
    with pytest.raises(ConfigError, match="--reasoning-effort all does not fit a chat"):
        generate(chat=True, effort="all")
    with pytest.raises(ConfigError, match="--output takes answers"):
        generate(Terminal(), output=Path("x.jsonl"))
    with pytest.raises(OutputError, match=r"nowhere/x.jsonl cannot be written"):
        generate(prompt="Hi", output=Path("nowhere/x.jsonl"))


def test_the_command_line_reaches_the_model(load: Callable[..., LoadedConfig]) -> None:
    load()
    train_py = Path(__file__).parents[2] / "train.py"
    ran = subprocess.run(
        [sys.executable, str(train_py), "generate", "--model", "base", "--config", "job.yaml", "--prompt", "Hi",
         "--temperature", "0.7", "--top-p", "0.9", "--seed", "1", "--max-new-tokens", "4", "--output", "o.jsonl"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(Path("o.jsonl").read_text())["prompt"] == "Hi"


# Before and after training.


ASKED = [
    "evaluation.prompts=[Hi, Why?]",
    "evaluation.reasoning_efforts=[low, high]",
    "evaluation.max_new_tokens=12",
    "evaluation.temperature=1",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job that was trained with samples, outputs/run, and without them, outputs/without."""
    folder = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patched:
        Path("job.yaml").write_text(SMALL)
        job.train(load_job_config(Path("job.yaml"), ASKED))
        patched.setenv("RUN_EVALUATION", "false")
        job.train(load_job_config(Path("job.yaml"), [*ASKED, "training.output_dir=without"]))
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / SAMPLES).read_text().split("\n") if line]


def test_samples_change_nothing_about_training(trained: Path) -> None:
    drawn, without = trained / "outputs/run", trained / "outputs/without"
    assert not (without / SAMPLES).exists()
    losses = [
        [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (drawn, without)
    ]
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]
    weights = [(folder / "final_model/adapter_model.safetensors").read_bytes() for folder in (drawn, without)]
    assert weights[0] == weights[1]


def test_before_is_the_base_model_and_after_the_adapter(
    trained: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    rows = rows_of(Path("outputs/run"))
    asked = [(prompt, effort) for prompt in ("Hi", "Why?") for effort in ("low", "high")]
    assert [(row["when"], row["prompt"], row["effort"]) for row in rows] == [
        (when, *question) for when in ("before", "after") for question in asked
    ]
    for name, kept in (("base", rows[:4]), ("final_model", rows[4:])):
        config = find_subject(name, Path("job.yaml"), ASKED).job
        model = build_model(config, find_repository(config.model), device, make_console())
        again = sample_answers(model, load_job_tokenizer(config.model), config)
        assert [{"when": row["when"], **answer} for row, answer in zip(kept, again, strict=True)] == kept
    assert [{**row, "when": "after"} for row in rows[:4]] != rows[4:]


def test_answers_of_before_are_kept_when_a_run_goes_on(
    load: Callable[..., LoadedConfig], device: Device, tmp_path: Path
) -> None:
    config = load(*ASKED).job
    model = build_model(config, find_repository(config.model), device, make_console())
    tokenizer = load_job_tokenizer(config.model)
    samples_before(model, tokenizer, config, tmp_path)
    kept = (tmp_path / SAMPLES).read_text().replace('"tokens": 12', '"tokens": 11')
    (tmp_path / SAMPLES).write_text(kept)
    samples_before(model, tokenizer, config, tmp_path)
    assert (tmp_path / SAMPLES).read_text() == kept
    samples_before(model, tokenizer, load(*ASKED, "evaluation.reasoning_efforts=[low]").job, tmp_path)
    assert len(rows_of(tmp_path)) == 2


def test_the_model_is_back_in_its_training_mode(load: Callable[..., LoadedConfig], device: Device) -> None:
    config = load("evaluation.prompts=[Hi]", "evaluation.max_new_tokens=3").job
    model = build_model(config, find_repository(config.model), device, make_console())
    tokenizer = load_job_tokenizer(config.model)

    def mode() -> tuple[object, ...]:
        flags = {
            name: (module.training, getattr(module, "gradient_checkpointing", None))
            for name, module in model.named_modules()
        }
        return flags, model.config.use_cache, tokenizer.padding_side

    for training in (True, False):
        model.train(training)
        before = mode()
        sample_answers(model, tokenizer, config)
        assert mode() == before


def test_samples_are_shown_side_by_side_where_there_is_room() -> None:
    row = {"prompt": "Hi", "effort": "low", "analysis": "mm", "calls": [], "tokens": 3, "stop": "return"}
    rows = [{**row, "when": "before", "answer": "first \x1b[31m"}, {**row, "when": "after", "answer": "second"}]
    wide = io.StringIO()
    show_samples(Console(file=wide, width=140, force_terminal=True, highlight=False), rows)
    together = [line for line in wide.getvalue().splitlines() if "first" in line and "second" in line]
    assert len(together) == 1
    assert "\\x1b[31m" in together[0]
    narrow = io.StringIO()
    show_samples(Console(file=narrow, width=120, soft_wrap=True), rows)
    assert narrow.getvalue().splitlines()[1:6] == [
        "  Hi  (reasoning effort low)", "  before", "    mm", "    first \\x1b[31m", "    3 tokens, ended by return",
    ]  # fmt: skip
