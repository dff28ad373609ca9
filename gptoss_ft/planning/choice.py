"""The plan with the least expected time among those that fit."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from gptoss_ft.config import JobConfig
from gptoss_ft.planning.cures import changed, find_cures
from gptoss_ft.planning.gpus import LEAST_MARGIN, MARGIN, GpuMemory, budget_gib, known_gpu
from gptoss_ft.planning.lengths import Lengths
from gptoss_ft.planning.memory import fuses_experts
from gptoss_ft.planning.plan import BLOCK, Plan, Reason, Room, bucketed
from gptoss_ft.planning.shapes import ModelShapes
from gptoss_ft.planning.speed import H200, micro_batch_seconds
from gptoss_ft.planning.steps import steps_in_all
from gptoss_ft.reporting.console import counted
from gptoss_ft.runtime import GIB

# Each row length that is weighed is this much of the next longer one.
SHORTER = 0.85


@dataclass(frozen=True)
class Candidate:
    """A way to compute a step, its longest micro-batch in tokens, its expected seconds, and its micro-batches."""

    room: Room
    is_packed: bool
    row_tokens: int
    rows_at_once: int
    step_seconds: float
    micro_batches: float


def effective_batch(job: JobConfig) -> int:
    """Samples of an optimizer step on one device."""
    return job.training.per_device_train_batch_size * job.training.gradient_accumulation_steps


def stays_off(job: JobConfig, shapes: ModelShapes | None, device: GpuMemory) -> str | None:
    """Why an optimizer step is computed as the config says; None where a plan may choose."""
    if job.performance.plan == "off":
        return "performance.plan is off"
    if job.lora.dropout > 0:
        return "lora.dropout is above 0: what is dropped would depend on the micro-batches"
    if job.training.router_aux_loss_coef != 0:
        return "training.router_aux_loss_coef is not 0: that loss is a mean over each micro-batch"
    if not device.bf16:
        return "the GPU does not compute in bfloat16, and no plan was tried on such a one"
    if shapes is None:
        return "the model's architecture is not known here"
    if shapes.attention_dropout > 0:
        return "the model drops out attention: what is dropped would depend on the micro-batches"
    return None


def make_plan(
    job: JobConfig, shapes: ModelShapes | None, lengths: Lengths, device: GpuMemory, packs: bool = True
) -> Plan:
    """The plan for one GPU. `packs` says whether samples can lie in one row without seeing each other."""
    if job.training.packing:
        lengths = Lengths.all_of(job.model.max_seq_length, lengths.effective_batch)
    if not device.groups:
        job = changed(job, "performance", fused_experts=False)
    off = stays_off(job, shapes, device)
    if shapes is None or off is not None:
        return as_configured(job, shapes, lengths, device, off or "")
    for margin in (MARGIN, LEAST_MARGIN):
        candidates = list(_candidates(shapes, job, lengths, device, packs, margin))
        if candidates:
            break
    else:
        return _too_small(job, shapes, lengths, device, packs)
    # Of those that take as long, the one with the shortest rows takes the least memory.
    best = min(candidates, key=lambda candidate: (round(candidate.step_seconds, 4), candidate.row_tokens))
    return _plan_of(best, lengths, device, _reasons(best, job, lengths))


def _candidates(
    shapes: ModelShapes, job: JobConfig, lengths: Lengths, device: GpuMemory, packs: bool, margin: float
) -> Iterator[Candidate]:
    """Everything that fits."""
    layouts = list(_layouts(lengths, packs))
    for keep, offload in product(_choices(can_keep(shapes)), _choices(can_offload(job, shapes))):
        room = Room(shapes, job, keep, offload, budget_gib(job, device, margin))
        costs = _Costs(room, lengths, device)
        for is_packed, row_tokens, at_once in layouts:
            # Kept for a layer that is recomputed, they would be made anew all the same.
            if room.fits(row_tokens, 0 if keep else room.most_checkpointed):
                steps = lengths.rows(row_tokens) if is_packed else lengths.padded_rows(at_once)
                tokens = np.array([row for step in steps for row in step])
                if is_packed:
                    tokens = bucketed(tokens, row_tokens)
                seconds = costs.seconds(tokens) / len(steps)
                yield Candidate(room, is_packed, row_tokens, at_once, seconds, len(tokens) / len(steps))


def _choices(possible: bool) -> tuple[bool, ...]:
    return (False, True) if possible else (False,)


def can_keep(shapes: ModelShapes) -> bool:
    """Whether there are experts that Unsloth can keep dequantized."""
    return shapes.is_moe and "nf4" in shapes.experts_held


def can_offload(job: JobConfig, shapes: ModelShapes) -> bool:
    """Whether the embedding may lie in the host's memory: not where it is the head too, or is trained."""
    return not shapes.tie_word_embeddings and not job.lora.modules_to_save


def _layouts(lengths: Lengths, packs: bool) -> Iterator[tuple[bool, int, int]]:
    """(packed, tokens of the longest micro-batch, samples at once) from the whole step down to one sample."""
    if not packs:
        at_once = lengths.effective_batch
        while at_once >= 1:
            yield False, at_once * lengths.longest, at_once
            at_once = min(at_once - 1, math.ceil(at_once * SHORTER))
        return
    row = float(lengths.step_bound)
    while row > lengths.longest:
        yield True, _in_blocks(row), lengths.effective_batch
        row *= SHORTER
    yield True, _in_blocks(lengths.longest), lengths.effective_batch


def _in_blocks(tokens: float) -> int:
    return BLOCK * math.ceil(tokens / BLOCK)


class _Costs:
    """Seconds of rows, each with as few recomputed layers as its length allows."""

    def __init__(self, room: Room, lengths: Lengths, device: GpuMemory) -> None:
        gpu = known_gpu(device.name)
        speed = gpu.speed if gpu else H200
        layers = range(room.most_checkpointed + 1)
        fused = fuses_experts(room.shapes, room.job)

        def seconds(tokens: int, checkpointed: int) -> float:
            keep, offload = room.keep_dequantized, room.offload_embedding
            return micro_batch_seconds(room.shapes, speed, tokens, checkpointed, keep, offload, lengths.mean, fused)

        self._limits = np.array([room.most_tokens(checkpointed, lengths.step_bound) for checkpointed in layers])
        self._fixed = np.array([seconds(0, checkpointed) for checkpointed in layers])
        self._token = np.array([seconds(1, checkpointed) for checkpointed in layers]) - self._fixed

    def seconds(self, tokens: np.ndarray) -> float:
        checkpointed = np.minimum(np.searchsorted(self._limits, tokens), len(self._limits) - 1)
        return float((self._fixed[checkpointed] + self._token[checkpointed] * tokens).sum())


def _plan_of(candidate: Candidate, lengths: Lengths, device: GpuMemory, reasons: tuple[Reason, ...]) -> Plan:
    room = candidate.room
    checkpointed = room.checkpointed(candidate.row_tokens)
    is_known = known_gpu(device.name) is not None
    steps = _steps(room.job, lengths)
    return Plan(
        rows="packed" if candidate.is_packed else "padded",
        row_tokens=candidate.row_tokens,
        rows_at_once=candidate.rows_at_once,
        checkpointed_layers=checkpointed,
        keep_dequantized=room.keep_dequantized,
        offload_embedding=room.offload_embedding,
        estimate=room.estimate(candidate.row_tokens, checkpointed),
        reasons=reasons,
        tokens_per_second=lengths.mean_step_tokens / candidate.step_seconds if is_known else None,
        seconds=steps * candidate.step_seconds if is_known and steps is not None else None,
        fits=True,
        cures=(),
        longest_sample=lengths.longest,
        room=room,
    )


def _steps(job: JobConfig, lengths: Lengths) -> int | None:
    """Optimizer steps of the job; None where it ends by epochs of unknown length."""
    if job.training.max_steps is None and (lengths.assumed or job.training.packing):
        return None
    return steps_in_all(job.training, len(lengths.values))


def _reasons(best: Candidate, job: JobConfig, lengths: Lengths) -> tuple[Reason, ...]:
    room, accumulation = best.room, job.training.gradient_accumulation_steps
    number = f"{best.micro_batches:.1f}".removesuffix(".0")
    step = f"{number} micro-batch{'' if number == '1' else 'es'} a step"
    step += f" in place of {accumulation}" if number != str(accumulation) else ""
    rows = (
        f"samples end to end in rows of at most {best.row_tokens:,} tokens"
        if best.is_packed
        else f"{counted(best.rows_at_once, 'sample')} at a time, padded to the longest"
    )
    found = [Reason(rows, f"{step}; steps hold up to {lengths.step_bound:,} tokens")]
    layers, checkpointed = room.shapes.layers, room.checkpointed(best.row_tokens)
    most = f"rows of {best.row_tokens:,} tokens"
    if not room.most_checkpointed:
        found.append(Reason("no layer recomputed", "training.gradient_checkpointing is false"))
    elif not checkpointed:
        found.append(Reason("no layer recomputed", f"all activations of {most} fit"))
    else:
        whole = layers - checkpointed
        fitting = f"activations of {whole} layers fit" if whole else "activations of not even one layer fit"
        found.append(
            Reason(f"{checkpointed} of {layers} layers recomputed", f"of {most} the {fitting}; shorter rows need fewer")
        )
    if room.keep_dequantized:
        found.append(Reason("experts kept dequantized for the backward pass", "there is memory for all layers of it"))
    if room.offload_embedding:
        gib = room.shapes.embedding_bytes() / GIB
        found.append(Reason("embedding in the host's memory", f"{gib:.1f} GiB are worth more to longer rows"))
    return tuple(found)


def _too_small(job: JobConfig, shapes: ModelShapes, lengths: Lengths, device: GpuMemory, packs: bool) -> Plan:
    """The plan that needs least, and what would make it fit."""
    room = Room(shapes, job, False, can_offload(job, shapes), budget_gib(job, device, LEAST_MARGIN))
    *_, (is_packed, row_tokens, at_once) = _layouts(lengths, packs)
    least = Candidate(room, is_packed, row_tokens, at_once, 1.0, lengths.effective_batch)
    plan = _plan_of(least, lengths, device, (Reason("as little as can be", "nothing that was weighed fits"),))
    return replace(plan, tokens_per_second=None, seconds=None, fits=False, cures=find_cures(room, row_tokens))


def as_configured(job: JobConfig, shapes: ModelShapes | None, lengths: Lengths, device: GpuMemory, why: str) -> Plan:
    """What `training` says and `why`, with an estimate where the model is known."""
    # Rows that are filled before are computed one by one.
    at_once = 1 if job.training.packing else min(job.training.per_device_train_batch_size, len(lengths.values))
    tokens = at_once * lengths.longest
    room = Room(shapes, job, False, False, budget_gib(job, device, LEAST_MARGIN)) if shapes is not None else None
    fits = room is None or room.fits(tokens, room.most_checkpointed)
    if room is not None and shapes is not None and not fits and can_offload(job, shapes):
        room = replace(room, offload_embedding=True)
        fits = room.fits(tokens, room.most_checkpointed)
    return Plan(
        rows="as configured",
        row_tokens=tokens,
        rows_at_once=at_once,
        checkpointed_layers=room.most_checkpointed if room is not None else 0,
        keep_dequantized=False,
        offload_embedding=room is not None and room.offload_embedding,
        estimate=room.estimate(tokens, room.most_checkpointed) if room is not None else None,
        reasons=(Reason("computed as `training` says", why),),
        tokens_per_second=None,
        seconds=None,
        fits=fits,
        cures=() if fits or room is None else find_cures(room, lengths.longest, at_once),
        longest_sample=lengths.longest,
        room=room,
    )
