"""Training speed of this project beside its peers: on the same GPU, tokens, LoRA targets and order of samples.

    python benchmarks/training_speed.py --model 4BIT_DIR --effective-batch 4 --steps 25 \\
        --contenders ours,notebook,trl-4,trl-16 --lengths lognormal --json speed.json

Contenders, each in a process of its own, in the order given (a name given twice runs twice, the second time with the
first one's compile caches):
- ours: `train.py train` with everything about speed at its default; 1 × EFFECTIVE_BATCH samples a step
- notebook: Unsloth's gpt-oss notebook, 1 × EFFECTIVE_BATCH
- padded: the same with the step's samples padded into one micro-batch
- trl-N: TRL + PEFT in bfloat16 without Unsloth, micro-batch N, on --model-16bit; where that is not given, on weights
  drawn on the device in the shapes of --model, and its seconds to step 1 then hold no loading of a checkpoint;
  trl-N-whole: without gradient checkpointing

Rows are random tokens, all trained; lengths are log-normal with a median of 600/1,024 of the longest, the longest
tenth cut, or all full. Tokens/s counts them without padding. Figures are medians over the steps after --warm-up. The
peak is what CUDA reserved while training. NAME@GIB is a contender that gets that much of the GPU's memory and no more
(ours@15.0); with --cap all get no more.
`--model tiny/gpt-oss --device cpu` runs everywhere, and tells only that it runs.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peers.contenders import REPOSITORY, ContenderError, Setting, run_ours, run_peer
from peers.measure import SEED, Steps, Task
from peers.rows import Rows, draw_lengths, draw_rows, shuffled_back, write_prepared_folder

BASELINE = "notebook"
WHOLE = "-whole"
# "  3/25  12.3456  …" of our console.
STEP_LINE = re.compile(r"\s+\d+/\d+\s")


@dataclass(frozen=True)
class Contender:
    """What runs, and the GiB of the GPU's memory that it may reserve (None: all)."""

    name: str
    cap_gib: float | None = None

    @classmethod
    def read(cls, text: str) -> Contender:
        """`ours`, `ours@15.0`; ValueError for a size that is no number."""
        name, _, cap = text.partition("@")
        return cls(name, float(cap) if cap else None)

    def __str__(self) -> str:
        return self.name if self.cap_gib is None else f"{self.name}@{self.cap_gib:g}"

    @property
    def trl_micro_batch(self) -> int | None:
        """Of trl-N and trl-N-whole; None for another."""
        number = self.name.removeprefix("trl-").removesuffix(WHOLE)
        return int(number) if self.name.startswith("trl-") and number.isdigit() else None

    @property
    def recomputes(self) -> bool:
        return not self.name.endswith(WHOLE)


@dataclass(frozen=True)
class Result:
    """One contender: medians over `counted` steps, those after the warm-up, the peak of reserved GPU memory in GiB,
    seconds from process start to the end of step 1, and all that it measured; or, where it came to none, why."""

    contender: str
    counted: int = 0
    tokens_per_second: float | None = None
    step_seconds: float | None = None
    peak_reserved_gib: float | None = None
    first_step_seconds: float | None = None
    steps: Steps | None = None
    error: str | None = None


def summarize(contender: str, steps: Steps, first_step_seconds: float, warm_up: int) -> Result:
    timed = list(zip(steps.tokens, steps.seconds, strict=True))[warm_up:]
    if not timed:
        raise ContenderError(f"took too long: {len(steps.seconds)} steps")
    return Result(
        contender=contender,
        counted=len(timed),
        tokens_per_second=round(statistics.median(tokens / seconds for tokens, seconds in timed), 1),
        step_seconds=round(statistics.median(seconds for _, seconds in timed), 4),
        peak_reserved_gib=round(steps.peak_reserved_gib, 2),
        first_step_seconds=round(first_step_seconds, 1),
        steps=steps,
    )


def local(name: str) -> str:
    """A folder of an embedded name; any other as an absolute path."""
    from gptoss_ft import runtime, tiny

    return str(tiny.materialize(name, runtime.cache_folder()) if tiny.is_tiny(name) else Path(name).resolve())


def make_rows(arguments: argparse.Namespace, folder: Path) -> Rows:
    """Draw the rows and write them for all: rows.npz in their order, prepared/ as our trainer shuffles them back."""
    from transformers import AutoConfig, AutoTokenizer

    from gptoss_ft.data.prepare import tokenizer_fingerprint

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    vocabulary = AutoConfig.from_pretrained(arguments.model).vocab_size
    lengths = draw_lengths(
        arguments.lengths, arguments.effective_batch * arguments.steps, arguments.longest, arguments.seed
    )
    rows = draw_rows(lengths, vocabulary, tokenizer.pad_token_id, arguments.seed)
    rows.save(folder / "rows.npz")
    (folder / "prepared").mkdir()
    write_prepared_folder(shuffled_back(rows, SEED), tokenizer_fingerprint(tokenizer), folder / "prepared")
    return rows


def task_of(contender: Contender, arguments: argparse.Namespace, folder: Path) -> Task:
    effective, of_trl = arguments.effective_batch, contender.trl_micro_batch
    in_16_bit = of_trl is not None or (contender.name == "ours" and arguments.experts == "cookbook")
    return Task(
        model=arguments.model_16bit if in_16_bit and arguments.model_16bit else arguments.model,
        rows=str(folder / "rows.npz"),
        effective_batch=effective,
        micro_batch=of_trl or {"ours": 1, BASELINE: 1, "padded": effective}[contender.name],
        longest=arguments.longest,
        experts=arguments.experts,
        device=arguments.device,
        cap_gib=contender.cap_gib or arguments.cap,
        weights_at_random=of_trl is not None and not arguments.model_16bit,
        recompute=contender.recomputes,
    )


def measure(contender: Contender, number: int, rows: Rows, arguments: argparse.Namespace, folder: Path) -> Result:
    task, name = task_of(contender, arguments, folder), contender.name
    own = folder / f"{number}-{contender}"
    own.mkdir()
    setting = Setting(own, arguments.cache, folder / "prepared", tuple(arguments.overrides), arguments.timeout)
    try:
        if name == "ours":
            steps, first = run_ours(task, rows.tokens_of_steps(task.effective_batch), setting)
        else:
            steps, first = run_peer(
                "notebook" if contender.trl_micro_batch is None else "trl_peft", name, task, setting
            )
        return summarize(str(contender), steps, first, arguments.warm_up)
    except ContenderError as error:
        return Result(str(contender), error=str(error))
    finally:
        if name == "ours":
            show_choices(own / "ours.log")


def show_choices(log: Path) -> None:
    """What our run said from the device on: the plan among it, and that a step did not fit. Without its lines of steps,
    and whatever it began to save when it was ended."""
    told = log.read_text(encoding="utf-8", errors="replace").partition("looking for the device")[2].splitlines()[1:]
    steps = [number for number, line in enumerate(told) if STEP_LINE.match(line)]
    others = [line for line in told[: max(steps, default=len(told))] if line.strip() and not STEP_LINE.match(line)]
    print("\n".join(f"  | {line}" for line in others), flush=True)


def show(results: list[Result]) -> None:
    base = next((one.tokens_per_second for one in results if one.contender == BASELINE), None)
    print(
        f"{'contender':10} {'steps':>5} {'tokens/s':>9} {'step s':>8} {'GiB':>7} {'to step 1':>10} {'× notebook':>11}"
    )
    for one in results:
        if one.tokens_per_second is None:
            print(f"{one.contender:10} {one.error}")
            continue
        ratio = f"{one.tokens_per_second / base:11.2f}" if base else f"{'':11}"
        print(
            f"{one.contender:10} {one.counted:5} {one.tokens_per_second:9,.0f} {one.step_seconds:8.3f} "
            f"{one.peak_reserved_gib:7.2f} {one.first_step_seconds:8.1f} s {ratio}"
        )


def write(results: list[Result], rows: Rows, arguments: argparse.Namespace) -> None:
    shared: dict[str, Any] = {key: value for key, value in vars(arguments).items() if key not in ("json", "logs")}
    facts = {
        **{key: str(value) if isinstance(value, Path) else value for key, value in shared.items()},
        "contenders": list(map(str, arguments.contenders)),
        "tokens": int(rows.lengths.sum()),
        "results": [asdict(one) for one in results],
    }
    arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def contenders(text: str) -> list[Contender]:
    return [Contender.read(one) for one in text.split(",")]


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", required=True, help="checkpoint in the layout of unsloth/gpt-oss-20b-unsloth-bnb-4bit"
    )
    parser.add_argument("--model-16bit", help="checkpoint with fused 16-bit experts, for trl-N")
    parser.add_argument("--contenders", type=contenders, default=contenders(f"ours,{BASELINE}"))
    parser.add_argument("--effective-batch", type=int, default=4, help="samples of an optimizer step")
    parser.add_argument("--steps", type=int, default=25, help="optimizer steps, warm-up among them")
    parser.add_argument("--warm-up", type=int, default=5, help="steps that are not counted")
    parser.add_argument("--lengths", choices=["lognormal", "full"], default="lognormal")
    parser.add_argument("--longest", type=int, default=1024, help="longest sample in tokens")
    parser.add_argument("--experts", choices=["all", "cookbook", "none"], default="all", help="adapters on experts")
    parser.add_argument("--cap", type=float, metavar="GIB", help="most GPU memory a process may reserve")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seed", type=int, default=0, help="of the rows")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="for ours")
    parser.add_argument("--cache", type=Path, help="folder of compile caches, kept; by default a new one")
    parser.add_argument("--logs", type=Path, help="new folder for what contenders print; by default not kept")
    parser.add_argument("--timeout", type=float, default=400, metavar="SECONDS", help="ends a contender")
    parser.add_argument("--json", type=Path, required=True, help="file to write after every contender")
    arguments = parser.parse_args(given)
    for contender in arguments.contenders:
        of_trl = contender.trl_micro_batch
        if contender.name not in ("ours", BASELINE, "padded") and of_trl is None:
            parser.error(
                f"--contenders {contender}: want ours, {BASELINE}, padded, trl-N or trl-N{WHOLE}, and @GIB for a cap"
            )
        if of_trl is not None and (of_trl == 0 or arguments.effective_batch % of_trl):
            parser.error(
                f"--contenders {contender}: --effective-batch {arguments.effective_batch} is no multiple of it"
            )
    if not 0 <= arguments.warm_up < arguments.steps:
        parser.error(f"--warm-up {arguments.warm_up}: want fewer than --steps {arguments.steps}")
    names = [contender.name for contender in arguments.contenders]
    if arguments.experts == "cookbook" and "ours" in names and not arguments.model_16bit:
        parser.error("--experts cookbook: ours wants --model-16bit, as experts in 4 bits are modules of their own")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    sys.path.insert(0, str(REPOSITORY))
    arguments.model = local(arguments.model)
    arguments.model_16bit = local(arguments.model_16bit) if arguments.model_16bit else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.logs:
            arguments.logs.mkdir(parents=True)
            folder = arguments.logs.resolve()
        arguments.cache = (arguments.cache or folder / "cache").resolve()
        rows = make_rows(arguments, folder)
        results: list[Result] = []
        for number, contender in enumerate(arguments.contenders, start=1):
            print(f"{contender} …", flush=True)
            results.append(measure(contender, number, rows, arguments, folder))
            write(results, rows, arguments)
        show(results)


if __name__ == "__main__":
    main()
