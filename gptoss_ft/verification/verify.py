"""Proof that what was exported is the model that was trained: both answer the same prompts, each in a fresh process.

The trained model is loaded through Unsloth as training loads it, the exported one with stock transformers (and PEFT for
an adapter) in a process that cannot import Unsloth. Compared are the logits of the last 16 positions of up to 8 prompts
of at most 256 tokens: rows that the job holds out, else rows that it trains on, else built-in questions.

What holds is documented here and in docs/after_training.md. Where both compute in float32, no logit differs by more
than 1e-4: the sums are the same, only their order is not. Else weights were rounded to 16 bits, or dequantized in
another order; a router that stands on a tie then chooses another expert, so the answers are held to each other and not
each logit. The mean KL divergence is at most 0.02 nats and at most a quarter of what the adapter itself makes (the
divergence of the trained model from its base), but up to 0.002 always holds: rounding alone makes 0.0007 in a random
gpt-oss of 4 layers. The likeliest token is the same at 98 % of the positions where the trained model is decided.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from gptoss_ft import errors
from gptoss_ft.config import ModelSection, write_job_file
from gptoss_ft.errors import ExportError, JobError, MachineError, SettingError
from gptoss_ft.reporting.console import counted, duration, show_section, working
from gptoss_ft.reporting.files import write_json
from gptoss_ft.runtime import Device, cache_folder, fresh_environment
from gptoss_ft.subject import Subject
from gptoss_ft.verification import probe

VERIFICATION = "verification.json"
SIDES = {
    "trained": "the trained model is loaded through Unsloth and asked",
    "exported": "the exported one is loaded by stock libraries and asked",
}


@dataclass(frozen=True)
class Tolerance:
    """Limits that a difference must keep; None where a figure is not held to one. KL in nats."""

    max_abs_logit_difference: float | None = None
    mean_kl: float | None = None
    decided_agreement: float | None = None


SAME_SUMS = Tolerance(max_abs_logit_difference=1e-4)
ALWAYS_ROUNDING, NEVER_ROUNDING, SHARE_OF_EFFECT = 0.002, 0.02, 0.25


def rounded(adapter_kl: float | None) -> Tolerance:
    """The limits for models that round differently; `adapter_kl` is the mean KL of the trained model and its base,
    None where there is no adapter."""
    effect = NEVER_ROUNDING if adapter_kl is None else SHARE_OF_EFFECT * adapter_kl
    return Tolerance(mean_kl=min(NEVER_ROUNDING, max(ALWAYS_ROUNDING, effect)), decided_agreement=0.98)


@dataclass(frozen=True)
class Verification:
    """What was found: differences of logits, KL(trained ‖ exported) in nats, the share of positions with the same
    likeliest token, of all and of those where the trained model is decided; over how many prompts and positions
    (`tokens`); the adapter's own mean KL(trained ‖ base); what each side computed in, and the limits."""

    max_abs_logit_difference: float
    mean_kl: float
    max_kl: float
    top1_agreement: float
    decided_agreement: float | None
    decided: int
    adapter_kl: float | None
    prompts: int
    tokens: int
    trained: str
    exported: str
    tolerance: Tolerance
    seconds: float

    @property
    def beyond(self) -> list[str]:
        """The figures that lie outside the tolerance, in words; a figure that is no number does."""
        limits = self.tolerance
        found = []
        largest = limits.max_abs_logit_difference
        if largest is not None and not self.max_abs_logit_difference <= largest:
            found.append(f"a logit differs by {self.max_abs_logit_difference:.3g} (at most {largest:g})")
        if limits.mean_kl is not None and not self.mean_kl <= limits.mean_kl:
            found.append(f"the mean KL divergence is {self.mean_kl:.3g} nats (at most {limits.mean_kl:g})")
        same, least = self.decided_agreement, limits.decided_agreement
        if least is not None and same is not None and not same >= least:
            found.append(
                f"the likeliest token is the same at {same:.1%} of the decided positions (at least {least:.0%})"
            )
        return found


def refuse_unverifiable(model: ModelSection, base: Literal["trained", "original"], device: Device) -> None:
    """Raise `SettingError` where the trained model, on its own base or on the published 16-bit one, cannot be loaded on
    `device` to be compared: known before anything is downloaded or written."""
    # It imports transformers.
    from gptoss_ft.model.loading import refuse_impossible

    try:
        refuse_impossible(model if base == "trained" else model.model_copy(update={"load_in_4bit": False}), device)
    except SettingError as error:
        raise SettingError(
            f"what is written is verified against the trained model, which cannot be loaded here: {error.message}",
            "Give the command on a machine with the kind of GPU that it was trained on.",
            error.key,
        ) from None


def verify(
    trained: Subject,
    exported: Path,
    kind: Literal["adapter", "merged"],
    *,
    base: Path | None = None,
    writes_adapter: bool = False,
    console: Console,
) -> Verification:
    """Compare the model `trained` with the folder `exported`, show what was found and write it there as
    verification.json.

    `base` is the folder with the stock 16-bit model that an exported adapter goes on. With `writes_adapter` the process
    that has the trained model in memory first writes its adapter, portable and with its tokenizer, into `exported`.
    Raises `ExportError` where stock libraries do not load it or it answers otherwise, and what loading the trained
    model raises; then there is no verification.json.
    """
    assert base is not None or kind == "merged", "an adapter goes on a base"
    started = time.monotonic()
    console.print("[dim]verifying: both models answer the same prompts, each in a process of its own[/]")
    with tempfile.TemporaryDirectory(prefix="gptoss_ft_verify_") as name:
        folder = Path(name)
        write_job_file(trained.job, folder)
        request = {
            "kind": trained.kind,
            "name": trained.name,
            "folder": str(trained.folder.absolute()) if trained.folder else None,
            "as": kind,
            "exported": str(exported.absolute()),
            "base": str(base.absolute()) if base else None,
            "writes_adapter": writes_adapter,
        }
        write_json(folder / probe.REQUEST, request)
        for side, words in SIDES.items():
            with working(console, f"  {words}"):
                run_side(side, folder)
        found = read_found(folder, time.monotonic() - started)
    show_verification(console, found)
    if found.beyond:
        raise ExportError(
            f"what was exported answers otherwise than the trained model: {'; '.join(found.beyond)}",
            "Nothing that looks finished was kept. Please report this, with the job's job.yaml.",
        )
    write_json(exported / VERIFICATION, asdict(found))
    return found


def run_side(side: str, folder: Path) -> None:
    """Run one side of the probe in `folder`; its output goes to the cache's libraries.log. Raises the `JobError` that
    it ended with, `MachineError` where it was killed, and `RuntimeError` with its traceback for a defect."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    log = cache_folder() / "libraries.log"
    command = [sys.executable, "-m", probe.__name__, side, str(folder)]
    with log.open("a", encoding="utf-8") as stdout:
        ended = subprocess.run(
            command, stdout=stdout, stderr=subprocess.PIPE, text=True, errors="replace", env=fresh_environment()
        )
        stdout.write(ended.stderr)
    if ended.returncode == 0:
        return
    if (folder / probe.REFUSED).is_file():
        raise _refused(json.loads((folder / probe.REFUSED).read_text(encoding="utf-8")))
    if ended.returncode < 0:
        raise MachineError(
            f"the process with the {side} model was ended by signal {-ended.returncode}",
            "It had too little memory, most likely: give the machine more, or close other programs.",
        )
    raise RuntimeError(f"the process with the {side} model failed:\n{ended.stderr}")


def _refused(words: dict[str, str]) -> JobError:
    """The error of a child process, of its own kind."""
    kind: Any = getattr(errors, words["kind"])
    refused: JobError = kind(words["message"], words["cure"], words["key"])
    return refused


def read_found(folder: Path, seconds: float) -> Verification:
    """What the two sides left in `folder`, put together and held to the tolerance of their dtypes."""
    trained, exported, prompts = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in (probe.TRAINED, probe.EXPORTED, probe.PROMPTS)
    )
    exact = trained["dtype"] == exported["dtype"] == "float32" and not trained["in_4bit"]
    weights = "4-bit, computed in " if trained["in_4bit"] else ""
    return Verification(
        max_abs_logit_difference=exported["max_abs_logit_difference"],
        mean_kl=exported["mean_kl"],
        max_kl=exported["max_kl"],
        top1_agreement=exported["top1_agreement"],
        decided_agreement=exported["decided_agreement"],
        decided=exported["decided"],
        adapter_kl=trained["adapter_kl"],
        prompts=len(prompts),
        tokens=exported["positions"],
        trained=f"{weights}{trained['dtype']} on {trained['device']}",
        exported=f"{exported['dtype']} on {exported['device']}",
        tolerance=SAME_SUMS if exact else rounded(trained["adapter_kl"]),
        seconds=round(seconds, 1),
    )


def show_verification(console: Console, found: Verification) -> None:
    limits = found.tolerance
    exact, kl = limits.max_abs_logit_difference, limits.mean_kl
    effect = "" if found.adapter_kl is None else f"; the adapter's own is {found.adapter_kl:.3g}"
    decided = ""
    if found.decided_agreement is not None:
        least = _limit(limits.decided_agreement, "at least")
        decided = f"; at {found.decided_agreement:.1%} of the {found.decided} decided ones{least}"
    values = {
        "trained model": f"{found.trained}, loaded through Unsloth",
        "exported": f"{found.exported}, loaded by stock libraries in a process without Unsloth",
        "asked": f"{counted(found.prompts, 'prompt')}, {counted(found.tokens, 'position')}",
        "largest difference": f"{found.max_abs_logit_difference:.3g} of a logit{_limit(exact, 'at most')}",
        "KL divergence": f"mean {found.mean_kl:.3g} nats{_limit(kl, 'at most')}, largest {found.max_kl:.3g}{effect}",
        "same likeliest token": f"at {found.top1_agreement:.1%} of the positions{decided}",
        "took": duration(found.seconds),
    }
    show_section(console, "verification", values)


def _limit(limit: float | None, word: str) -> str:
    return "" if limit is None else f" ({word} {limit:g})"
