"""Estimates against peaks that were measured on a GPU, and what must hold between estimates."""

from pathlib import Path

import pytest

from gptoss_ft.config import JobConfig
from gptoss_ft.planning.memory import MemoryEstimate, estimate, optimizer_bytes
from gptoss_ft.planning.residuals import Measured, read_measured, residuals
from gptoss_ft.planning.shapes import ModelShapes, shapes_of
from gptoss_ft.runtime import GIB

PEAKS = read_measured(Path(__file__).parents[2] / "benchmarks" / "measured_peaks.json")
JOB = JobConfig()


def shapes_measured() -> ModelShapes:
    shapes = shapes_of(PEAKS[0].config, JOB)
    assert shapes is not None
    return shapes


def gpt_oss(
    tokens: int, checkpointed: int, keep: bool = False, offload: bool = False, job: JobConfig = JOB
) -> MemoryEstimate:
    return estimate(shapes_measured(), job, tokens, checkpointed, keep, offload)


@pytest.mark.parametrize("measured", PEAKS, ids=[run.source for run in PEAKS])
def test_an_estimate_is_within_a_tenth_of_the_measured_peak_and_hardly_under_it(measured: Measured) -> None:
    [(_, _, relative)] = residuals([measured])
    assert -0.05 <= relative <= 0.10


def test_enough_was_measured() -> None:
    assert len(PEAKS) >= 15


def test_the_parts_add_up() -> None:
    found = gpt_oss(4096, 12)
    assert sum(found.parts().values()) == pytest.approx(found.peak_gib)
    assert found.base_weights == pytest.approx(12.54, abs=0.01)
    # Weights and gradients in float32, and two bytes of optimizer state.
    assert found.adapter == pytest.approx(92_454_912 * 8 / GIB)
    assert found.optimizer == pytest.approx(92_454_912 * 2 / GIB, rel=0.02)


def test_more_recomputation_and_shorter_rows_never_take_more() -> None:
    for keep in (False, True):
        peaks = [
            [round(gpt_oss(tokens, layers, keep).peak_gib, 9) for layers in range(25)] for tokens in (128, 1024, 16384)
        ]
        for row in peaks:
            assert row == sorted(row, reverse=True)
        for column in zip(*peaks, strict=True):
            assert list(column) == sorted(column)


def test_what_is_kept_dequantized_is_there_for_every_layer() -> None:
    projection = 2 * 32 * 2880**2 / GIB
    assert gpt_oss(1024, 24).dequantized_experts == pytest.approx(2 * projection)
    unsloths = JobConfig.model_validate({"performance": {"fused_experts": False}})
    assert gpt_oss(1024, 24, job=unsloths).dequantized_experts == pytest.approx(3 * projection)
    for job in (JOB, unsloths):
        assert gpt_oss(1024, 0, keep=True, job=job).dequantized_experts == pytest.approx(24 * 3 * projection)


def test_an_offloaded_embedding_is_not_on_the_gpu() -> None:
    saved = gpt_oss(1024, 24).peak_gib - gpt_oss(1024, 24, offload=True).peak_gib
    assert saved == pytest.approx(201088 * 2880 * 2 / GIB)


def test_plain_checkpointing_keeps_hidden_states_on_the_gpu() -> None:
    plain = JobConfig.model_validate({"training": {"gradient_checkpointing": True}})
    on_gpu = gpt_oss(16384, 24, job=plain).activations - gpt_oss(16384, 24).activations
    assert on_gpu == pytest.approx(16384 * 24 * 2880 * 4 / GIB)


def test_the_loss_counts_where_its_logits_are_the_largest() -> None:
    config = {
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
        "intermediate_size": 128, "vocab_size": 128_256,
    }  # fmt: skip
    job = JobConfig.model_validate({"model": {"load_in_4bit": False}})
    shapes = shapes_of(config, job)
    assert shapes is not None
    whole = estimate(shapes, job, 1000, 2, False, False)
    assert (whole.logits, whole.layer_at_work) == (pytest.approx(1000 * 128_256 * 4 / GIB), 0)
    # Of more than 4 GiB at 16 bytes a logit there are chunks, the largest of which is not of the longest row.
    for tokens in (3000, 4000, 40_000):
        assert estimate(shapes, job, tokens, 2, False, False).logits == pytest.approx(1, rel=0.001)
    saved = job.model_copy(update={"lora": job.lora.model_copy(update={"modules_to_save": ["lm_head"]})})
    more = estimate(shapes, saved, 1000, 2, False, False).logits - whole.logits
    assert more == pytest.approx(2 * 2 * 128_256 * 64 / GIB)


def test_an_embedding_that_is_trained_has_its_state_in_32_bits() -> None:
    saved = JobConfig.model_validate({"lora": {"modules_to_save": ["embed_tokens"]}})
    more = gpt_oss(1024, 24, job=saved).optimizer - gpt_oss(1024, 24).optimizer
    assert more == pytest.approx(8 * 201088 * 2880 / GIB)
    assert optimizer_bytes(saved, shapes_measured(), on_disk=True) / GIB == pytest.approx(
        gpt_oss(1024, 24, job=saved).optimizer
    )
    paged = JobConfig.model_validate({"training": {"optim": "paged_adamw_32bit"}})
    assert optimizer_bytes(paged, shapes_measured()) == 0
    assert optimizer_bytes(paged, shapes_measured(), on_disk=True) == 8 * 92_454_912
