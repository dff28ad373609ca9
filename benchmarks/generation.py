"""Tokens per second of `generate` beside plain transformers, on the same prompts, one after the other.

    python benchmarks/generation.py --model DIR --merged DIR --new-tokens 256 --batches 1 8

Measured are, each in a process of its own, because Unsloth changes transformers at its import:
- ours: the 4-bit checkpoint `--model` (in 16 bits on a CPU) loaded and asked as the command `generate` does;
- plain: stock transformers on the 16-bit checkpoint `--merged`, `generate` on the same left-padded prompts.

Both choose the likeliest token and say exactly `--new-tokens` of them: the one token that would end an answer is one
that no model has. A first round is not counted, in which kernels are compiled; of the others the median is
told. Prompts are questions of the embedded rows. `tiny/gpt-oss` will do for both folders, on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptoss_ft.config import JobConfig

REPOSITORY = Path(__file__).resolve().parents[1]
SIDES = ("ours", "plain")
GIB = 1024**3

Prompts = list[list[int]]


@dataclass(frozen=True)
class Measured:
    """One side at one batch size: the median of all rounds in new tokens a second, the seconds of the first round,
    which is not among them, the seconds to the first token, and the peak of reserved GPU memory in GiB."""

    side: str
    batch: int
    tokens_per_second: float
    first_round_seconds: float
    first_token_seconds: float
    peak_reserved_gib: float


def job_of(folder: str) -> JobConfig:
    """The job that `folder` is asked with; 4 bits where there is a GPU."""
    import torch

    from gptoss_ft.config import JobConfig, ModelSection

    on_gpu = torch.cuda.is_available()
    dtype: Any = "bfloat16" if on_gpu else "float32"
    return JobConfig(model=ModelSection(name=folder, load_in_4bit=on_gpu, dtype=dtype, device="auto"))


def questions(count: int) -> list[str]:
    """As many different questions, in six languages."""
    from gptoss_ft.tiny.rows import multilingual_thinking

    asked = [message["content"] for row in multilingual_thinking() for message in row["messages"][1:2]]
    return list(dict.fromkeys(asked))[:count]


def measure_ours(folder: str, batches: Sequence[int], new_tokens: int, rounds: int) -> list[Measured]:
    """Through Unsloth and our own generator."""
    from gptoss_ft.runtime import find_device, import_unsloth, prepare_environment

    prepare_environment()
    job = job_of(folder)
    device = find_device("auto")
    import_unsloth(device)
    from gptoss_ft.data.tokenizer import load_job_tokenizer
    from gptoss_ft.inference.generate import Sampling, make_generator
    from gptoss_ft.inference.prompts import ask
    from gptoss_ft.inference.watching import Watcher
    from gptoss_ft.model.loading import load_base
    from gptoss_ft.model.repository import find_repository

    model = load_base(job.model, find_repository(job.model), device, job.training)
    generator = make_generator(model, load_job_tokenizer(job.model), job)
    generator = replace(generator, stops={model.config.vocab_size: "end"})
    sampling = Sampling(max_new_tokens=new_tokens)

    def answer(batch: int, watch: Any) -> int:
        asked = [ask(question) for question in questions(batch)]
        return generator.answer(asked, sampling, batch, watch)[1].tokens

    return [_measured("ours", batch, rounds, answer, Watcher) for batch in batches]


def measure_plain(
    folder: str, prompts: Prompts, batches: Sequence[int], new_tokens: int, rounds: int
) -> list[Measured]:
    """Through stock transformers, as its documentation has it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gptoss_ft.inference.watching import Watcher

    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map="cuda" if on_gpu else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"

    def answer(batch: int, watch: Any) -> int:
        padded = tokenizer.pad({"input_ids": prompts[:batch]}, return_tensors="pt").to(model.device)
        watch.start()
        made: Any = model.generate(
            **padded,
            do_sample=False,
            max_new_tokens=new_tokens,
            eos_token_id=model.config.vocab_size,
            pad_token_id=tokenizer.pad_token_id,
            streamer=watch,
        )
        return int(made.shape[0] * (made.shape[1] - padded["input_ids"].shape[1]))

    return [_measured("plain", batch, rounds, answer, Watcher) for batch in batches]


def _measured(
    side: str, batch: int, rounds: int, answer: Callable[[int, Any], int], watcher: Callable[[], Any]
) -> Measured:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    speeds, firsts, first_round = [], [], 0.0
    for number in range(rounds + 1):
        watch = watcher()
        started = time.monotonic()
        tokens = answer(batch, watch)
        seconds = time.monotonic() - started
        if number == 0:
            first_round = seconds
            continue
        speeds.append(tokens / seconds)
        firsts.append(watch.stats([]).first_token_seconds)
    peak = torch.cuda.max_memory_reserved() / GIB if torch.cuda.is_available() else 0.0
    return Measured(
        side=side,
        batch=batch,
        tokens_per_second=round(statistics.median(speeds), 1),
        first_round_seconds=round(first_round, 2),
        first_token_seconds=round(statistics.median(firsts), 3),
        peak_reserved_gib=round(peak, 2),
    )


def render(folder: str, batches: Sequence[int]) -> Prompts:
    """The prompts that ours makes of the questions, for the other side."""
    from gptoss_ft.data.conversation import Conversation, Message
    from gptoss_ft.data.prepare import make_renderer
    from gptoss_ft.data.tokenizer import load_job_tokenizer

    job = job_of(folder)
    renderer = make_renderer(load_job_tokenizer(job.model), job, job.datasets[0])
    return [
        renderer.prompt(Conversation((Message("user", question),))).tolist() for question in questions(max(batches))
    ]


def local(folder: str) -> str:
    """A folder of an embedded name."""
    from gptoss_ft import runtime, tiny

    return str(tiny.materialize(folder, runtime.cache_folder())) if tiny.is_tiny(folder) else folder


def run_child(side: str, arguments: argparse.Namespace, output: Path) -> list[Measured]:
    command = [
        sys.executable, str(Path(__file__).resolve()), "--side", side, "--output", str(output),
        "--model", arguments.model, "--merged", arguments.merged, "--new-tokens", str(arguments.new_tokens),
        "--rounds", str(arguments.rounds), "--batches", *map(str, arguments.batches),
    ]  # fmt: skip
    # Libraries may write to the standard output; what is measured comes in a file.
    subprocess.run(command, check=True, stdout=sys.stderr)
    return [Measured(**row) for row in json.loads(output.read_text())]


def measure_side(arguments: argparse.Namespace) -> list[Measured]:
    rounds, new_tokens, batches = arguments.rounds, arguments.new_tokens, arguments.batches
    if arguments.side == "ours":
        return measure_ours(arguments.model, batches, new_tokens, rounds)
    return measure_plain(local(arguments.merged), render(arguments.model, batches), batches, new_tokens, rounds)


def show(measured: Sequence[Measured]) -> None:
    print(f"{'side':6} {'batch':>5} {'tokens/s':>9} {'first token':>12} {'first round':>12} {'GiB':>7}")
    for row in measured:
        print(
            f"{row.side:6} {row.batch:5} {row.tokens_per_second:9,.1f} {row.first_token_seconds:10.3f} s "
            f"{row.first_round_seconds:10.2f} s {row.peak_reserved_gib:7.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint for ours")
    parser.add_argument("--merged", required=True, help="16-bit checkpoint for plain transformers")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    from gptoss_ft.runtime import prepare_environment

    if arguments.side:
        arguments.output.write_text(json.dumps([asdict(row) for row in measure_side(arguments)]))
        return
    # For both: threads that wait without spinning, and the same allocator.
    prepare_environment()
    with tempfile.TemporaryDirectory() as folder:
        measured = [row for side in SIDES for row in run_child(side, arguments, Path(folder) / f"{side}.json")]
    show(measured)
    print(json.dumps([asdict(row) for row in measured]))


if __name__ == "__main__":
    main()
