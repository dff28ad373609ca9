"""What would make a job fit a GPU that is too small for it."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gptoss_ft.config import JobConfig
from gptoss_ft.planning.gpus import limit_for, needed_gib
from gptoss_ft.planning.plan import Room
from gptoss_ft.planning.shapes import Held

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
SMALL_OPTIMIZER = "adamw_8bit"
# A model that is trained on shorter samples is hardly of use.
SHORTEST = 256


def find_cures(room: Room, longest: int, at_once: int = 1) -> tuple[str, ...]:
    """Changes of the config of which each alone makes micro-batches of `at_once` samples of `longest` tokens fit, and
    last the GPU that would do."""
    tokens = at_once * longest
    cures = [words for words, changed in _changes(room) if changed.fits(tokens, changed.most_checkpointed)]
    most = room.most_tokens(room.most_checkpointed, tokens)
    if 1 <= most // longest < at_once:
        cures.append(f"training.per_device_train_batch_size: {most // longest}, with more accumulation")
    elif SHORTEST <= most // at_once < longest:
        cures.append(f"model.max_seq_length: {most // at_once}")
    needed = room.estimate(tokens, room.most_checkpointed).peak_gib
    larger = f"a GPU of {math.ceil(needed_gib(needed))} GiB"
    if room.job.performance.memory_limit_gib is not None:
        larger = f"performance.memory_limit_gib: {math.ceil(10 * limit_for(needed)) / 10:g}, on {larger} or more"
    return (*cures, larger)


def _changes(room: Room) -> Iterator[tuple[str, Room]]:
    job = room.job
    if job.training.gradient_checkpointing != "unsloth":
        yield "training.gradient_checkpointing: unsloth", _changed(room, "training", gradient_checkpointing="unsloth")
    if job.training.optim != SMALL_OPTIMIZER:
        yield f"training.optim: {SMALL_OPTIMIZER}", _changed(room, "training", optim=SMALL_OPTIMIZER)
    if set(job.lora.target_modules) - set(ATTENTION) or job.lora.target_parameters:
        attention = _changed(room, "lora", target_modules=ATTENTION, target_parameters=None)
        yield f"lora.target_modules: [{', '.join(ATTENTION)}], without experts or MLP", attention
    if not job.model.load_in_4bit:
        nf4: Held = "nf4"
        held = (nf4,) * room.shapes.layers
        shapes = replace(room.shapes, experts_held=held, attention_held=held)
        yield "model.load_in_4bit: true", replace(_changed(room, "model", load_in_4bit=True), shapes=shapes)


def _changed(room: Room, section: str, **values: Any) -> Room:
    return replace(room, job=changed(room.job, section, **values))


def changed(job: JobConfig, section: str, **values: Any) -> JobConfig:
    """`job` with other values of a section."""
    return job.model_copy(update={section: getattr(job, section).model_copy(update=values)})
