"""Which plan is chosen, when it stays off, what follows when memory runs out."""

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_memory import PEAKS, shapes_measured

from gptoss_ft.config import JobConfig
from gptoss_ft.planning.choice import make_plan
from gptoss_ft.planning.gpus import LEAST_MARGIN, GpuMemory, budget_gib
from gptoss_ft.planning.lengths import Lengths
from gptoss_ft.planning.plan import BLOCK, Plan, bucketed
from gptoss_ft.planning.shapes import ModelShapes, shapes_of
from gptoss_ft.runtime import GIB

H200 = GpuMemory("NVIDIA H200", 139.8, groups=True)
SHAPES = shapes_measured()
IN_4_BITS = next(run for run in PEAKS if "offloaded" in run.source).config
# Log-normal around 600, cut at 1,024: the lengths that the project's figures are for.
VALUES = np.minimum(np.exp(np.random.default_rng(0).normal(math.log(600), 0.42, 2000)), 1024).astype(np.int64)


def job_of(accumulation: int = 4, **sections: dict[str, Any]) -> JobConfig:
    training = {"gradient_accumulation_steps": accumulation, **sections.pop("training", {})}
    return JobConfig.model_validate({"training": training, **sections})


def plan_of(job: JobConfig, device: GpuMemory, shapes: ModelShapes | None = SHAPES, packs: bool = True) -> Plan:
    return make_plan(job, shapes, Lengths(VALUES, job.training.gradient_accumulation_steps), device, packs)


def in_4_bits(job: JobConfig) -> ModelShapes:
    shapes = shapes_of(IN_4_BITS, job)
    assert shapes is not None
    return shapes


def check(plan: Plan, job: JobConfig, device: GpuMemory) -> None:
    """What holds for every plan that fits."""
    assert plan.fits and plan.cures == ()
    assert plan.estimate is not None and plan.estimate.peak_gib <= budget_gib(job, device, LEAST_MARGIN)
    assert plan.row_tokens >= plan.longest_sample
    assert plan.row_tokens % BLOCK == 0
    assert plan.checkpointed(plan.row_tokens) == plan.checkpointed_layers
    needed = [plan.checkpointed(tokens) for tokens in range(1, plan.row_tokens + 1, 500)]
    assert needed == sorted(needed) and needed[-1] <= plan.checkpointed_layers
    # No shorter row needs more than the longest one's estimate or the budget.
    assert plan.room is not None
    for tokens in range(BLOCK, plan.row_tokens + 1, 7 * BLOCK):
        assert plan.room.fits(tokens, plan.checkpointed(tokens))


def test_a_large_gpu_takes_the_whole_step_without_recomputation() -> None:
    plan = plan_of(job_of(), H200)
    check(plan, job_of(), H200)
    assert (plan.rows, plan.checkpointed_layers, plan.keep_dequantized, plan.offload_embedding) == (
        "packed", 0, True, False,
    )  # fmt: skip
    # Practically every step is one row: a step has 2,450 tokens on average.
    assert plan.row_tokens > Lengths(VALUES, 4).step_tokens(0.95)
    assert plan.tokens_per_second == pytest.approx(7500, rel=0.15)
    assert plan.seconds == pytest.approx(20 * Lengths(VALUES, 4).mean_step_tokens / plan.tokens_per_second)


@pytest.mark.parametrize("gib", [24, 48, 80])
@pytest.mark.parametrize("accumulation", [4, 32])
def test_plans_fit(gib: int, accumulation: int) -> None:
    job, device = job_of(accumulation), GpuMemory("", gib, groups=True)
    plan = plan_of(job, device)
    check(plan, job, device)
    assert (plan.tokens_per_second, plan.seconds) == (None, None)


def test_more_memory_is_never_slower() -> None:
    speeds = [
        plan_of(job_of(32), GpuMemory("H200", gib, groups=True)).tokens_per_second for gib in (16, 20, 24, 40, 80, 140)
    ]
    assert None not in speeds
    assert speeds == sorted(speeds, key=lambda speed: speed or 0)


def test_the_default_job_below_15_gib_offloads_the_embedding() -> None:
    job = job_of(performance={"memory_limit_gib": 15.0})
    plan = plan_of(job, H200, in_4_bits(job))
    check(plan, job, H200)
    assert plan.offload_embedding
    assert plan.checkpointed_layers >= 23
    assert plan.estimate is not None and plan.estimate.peak_gib <= 13.8


def test_a_tight_gpu_is_used_with_less_to_spare() -> None:
    job, device = job_of(), GpuMemory("", 14.8, groups=True)
    plan = plan_of(job, device, in_4_bits(job))
    assert plan.fits and plan.estimate is not None
    assert budget_gib(job, device) < plan.estimate.peak_gib <= budget_gib(job, device, LEAST_MARGIN)


def test_what_is_too_small_says_what_would_do() -> None:
    job = job_of(performance={"memory_limit_gib": 13.7})
    plan = plan_of(job, H200, in_4_bits(job))
    assert not plan.fits
    assert plan.rows == "packed" and plan.offload_embedding and plan.checkpointed_layers == 24
    assert plan.cures[0] == "lora.target_modules: [q_proj, k_proj, v_proj, o_proj], without experts or MLP"
    assert plan.cures[-1] == "performance.memory_limit_gib: 13.9, on a GPU of 15 GiB or more"
    for changed in (job_of(lora={"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}), job_of()):
        device = H200 if changed == job_of() else GpuMemory("", 14.5, groups=True)
        assert plan_of(changed, device, in_4_bits(changed)).fits


def test_a_shorter_sample_is_a_cure() -> None:
    job = job_of(model={"max_seq_length": 32768})
    plan = make_plan(job, SHAPES, Lengths.all_of(32768, 4), GpuMemory("", 24))
    assert not plan.fits
    [length] = [cure.split(": ")[1] for cure in plan.cures if cure.startswith("model.max_seq_length: ")]
    assert 4096 < int(length) < 32768
    assert make_plan(job, SHAPES, Lengths.all_of(int(length), 4), GpuMemory("", 24)).fits


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (job_of(performance={"plan": "off"}), "performance.plan is off"),
        (job_of(lora={"dropout": 0.1}), "lora.dropout is above 0"),
        (job_of(training={"router_aux_loss_coef": 0.01}), "training.router_aux_loss_coef is not 0"),
    ],
)
def test_it_stays_off(job: JobConfig, why: str) -> None:
    plan = plan_of(job, H200)
    assert (plan.rows, plan.rows_at_once, plan.row_tokens, plan.fits) == ("as configured", 1, 1024, True)
    assert plan.reasons[0].why.startswith(why)
    assert plan.checkpointed(10) == plan.checkpointed_layers == 24
    assert plan.smaller() is None
    # The notebook's recipe: 15.7 GiB, of which this package's experts save the gate and up of one layer in 16 bits.
    assert plan.estimate is not None and plan.estimate.peak_gib == pytest.approx(15.2, rel=0.03)


def test_as_configured_a_smaller_micro_batch_is_a_cure_and_samples_keep_their_length() -> None:
    job = JobConfig.model_validate(
        {
            "model": {"max_seq_length": 8192},
            "training": {"per_device_train_batch_size": 4},
            "performance": {"plan": "off", "memory_limit_gib": 24.0},
        }
    )
    plan = make_plan(job, SHAPES, Lengths.all_of(8192, 16), H200)
    assert not plan.fits
    cures = [cure for cure in plan.cures if cure.startswith(("training.per_device", "model.max_seq"))]
    assert len(cures) == 1
    found = re.fullmatch(r"training.per_device_train_batch_size: (\d), with more accumulation", cures[0])
    assert found is not None
    assert 1 <= int(found[1]) < 4
    smaller = job.training.model_copy(update={"per_device_train_batch_size": int(found[1])})
    assert make_plan(job.model_copy(update={"training": smaller}), SHAPES, Lengths.all_of(8192, 16), H200).fits


@pytest.mark.parametrize(
    ("job", "groups", "projections"),
    [
        (job_of(), True, 2),
        (job_of(), False, 3),
        (job_of(model={"dtype": "float16"}), True, 3),
        (job_of(lora={"r": 12}), True, 3),
        (job_of(performance={"fused_experts": False}), True, 3),
    ],
)
def test_unsloths_experts_are_expected_where_ours_cannot_be(job: JobConfig, groups: bool, projections: int) -> None:
    plan = plan_of(job, GpuMemory("", 20, groups=groups), in_4_bits(job))
    assert plan.estimate is not None and not plan.keep_dequantized
    assert plan.estimate.dequantized_experts == pytest.approx(2 * projections * 32 * 2880**2 / GIB)


def test_it_stays_off_for_the_models_own_dropout_and_for_an_unknown_model() -> None:
    plan = plan_of(job_of(), H200, replace(SHAPES, attention_dropout=0.1))
    assert plan.reasons[0].why.startswith("the model drops out attention")
    unknown = plan_of(job_of(), H200, None)
    assert (unknown.rows, unknown.estimate, unknown.fits) == ("as configured", None, True)
    assert unknown.reasons[0].why == "the model's architecture is not known here"


def test_off_on_a_gpu_that_is_too_small() -> None:
    job = job_of(performance={"plan": "off"})
    plan = plan_of(job, GpuMemory("", 15.5), in_4_bits(job))
    # The embedding alone may lie elsewhere.
    assert (plan.fits, plan.offload_embedding) == (True, True)
    assert plan_of(job, GpuMemory("", 17.0), in_4_bits(job)).offload_embedding is False
    plan = plan_of(job, GpuMemory("", 14.6), in_4_bits(job))
    assert not plan.fits
    assert plan.cures[0].startswith("lora.target_modules: ")


def test_smaller_plans_need_less_each_time_and_end_at_one_sample() -> None:
    plan: Plan | None = plan_of(job_of(32), GpuMemory("", 80, groups=True))
    assert plan is not None
    first, seen = plan, [plan]
    while (plan := plan.smaller()) is not None:
        seen.append(plan)
        assert plan.estimate is not None and plan.fits
        assert all(plan.checkpointed(tokens) >= first.checkpointed(tokens) for tokens in (500, 1000, 5000, 10_000))
    peaks = [one.estimate.peak_gib for one in seen if one.estimate is not None]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == len(peaks)
    rows = [(one.rows, one.checkpointed_layers, one.row_tokens) for one in seen]
    # First more recomputation, then shorter rows; never shorter than the longest sample.
    assert [layers for _, layers, _ in rows] == sorted(layers for _, layers, _ in rows)
    most_recomputed = next(index for index, (_, layers, _) in enumerate(rows) if layers == 23)
    assert {tokens for _, _, tokens in rows[: most_recomputed + 1]} == {seen[0].row_tokens}
    assert rows[-1] == ("packed", 23, 1024)


def test_what_is_kept_dequantized_goes_first() -> None:
    plan = plan_of(job_of(), H200)
    smaller = plan.smaller()
    assert plan.keep_dequantized and smaller is not None and smaller.room is not None
    assert (smaller.keep_dequantized, smaller.room.keep_dequantized) == (False, False)
    assert (smaller.row_tokens, smaller.checkpointed_layers) == (plan.row_tokens, 0)
    assert plan.estimate is not None and smaller.estimate is not None
    # The experts of all layers; one projection of the layer at work is there all the same.
    kept = plan.estimate.dequantized_experts - smaller.estimate.dequantized_experts
    projection = SHAPES.dequantized_by_fused_experts_bytes()
    assert kept == pytest.approx((24 * SHAPES.dequantized_layer_bytes() - projection) / GIB, rel=0.01)


def test_rows_are_padded_to_few_lengths() -> None:
    lengths = {bucketed(tokens, 3584) for tokens in range(1, 3585)}
    assert lengths == {512, 1024, 1536, 2048, 2560, 3072, 3584}
    assert {bucketed(tokens, 1100) for tokens in range(1, 1101)} == {256, 512, 768, 1024, 1152}
    assert bucketed(1100, 1100, 1) == 1100
    assert bucketed(np.array([1, 513, 3584]), 3584).tolist() == [512, 1024, 3584]


def test_without_packing_samples_are_padded() -> None:
    job = job_of(8)
    plan = plan_of(job, H200, packs=False)
    assert (plan.rows, plan.rows_at_once, plan.row_tokens) == ("padded", 8, 8 * 1024)
    smaller = plan.smaller()
    while smaller is not None and smaller.checkpointed_layers < 23:
        smaller = smaller.smaller()
    assert smaller is not None
    ends = []
    while (smaller := smaller.smaller()) is not None:
        ends.append((smaller.rows, smaller.rows_at_once, smaller.row_tokens))
    assert ends == [("padded", 4, 4096), ("padded", 2, 2048), ("padded", 1, 1024)]


def test_no_recomputation_where_the_config_forbids_it() -> None:
    job = job_of(training={"gradient_checkpointing": False})
    plan = plan_of(job, GpuMemory("", 24))
    assert plan.checkpointed_layers == 0
    assert plan.reasons[1].why == "training.gradient_checkpointing is false"
    check(plan, job, GpuMemory("", 24))


def test_packing_fills_rows_of_max_seq_length() -> None:
    job = job_of(training={"packing": True})
    plan = plan_of(job, H200)
    assert plan.row_tokens == 4 * 1024
    assert plan.longest_sample == 1024


def test_a_dense_model_keeps_no_experts() -> None:
    config = {
        "model_type": "llama", "num_hidden_layers": 28, "hidden_size": 3072, "num_attention_heads": 24,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192, "vocab_size": 128_256,
        "tie_word_embeddings": True,
    }  # fmt: skip
    job = job_of()
    shapes = shapes_of(config, job)
    plan = plan_of(job, GpuMemory("L4", 22.5), shapes)
    check(plan, job, GpuMemory("L4", 22.5))
    # An embedding that is the head as well stays on the GPU.
    assert (plan.keep_dequantized, plan.offload_embedding) == (False, False)
