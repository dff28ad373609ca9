"""Expected seconds against those that were measured on an H200, and what must hold between GPUs."""

import pytest
from test_memory import shapes_measured

from gptoss_ft.planning.gpus import KNOWN
from gptoss_ft.planning.speed import H200, attention_products, micro_batch_seconds

SHAPES = shapes_measured()


@pytest.mark.parametrize(
    ("tokens", "checkpointed", "keep", "mean_length", "fused", "seconds"),
    [
        (1024, 24, False, 1024, False, 0.306),
        (4096, 24, False, 1024, False, 0.480),
        (16384, 24, False, 1024, False, 1.704),
        (8192, 0, False, 1024, False, 0.645),
        (16384, 0, False, 1024, False, 1.199),
        (4096, 0, True, 1024, False, 0.357),
        (32768, 0, False, 1024, True, 1.547),
        (19900, 0, True, 630, True, 1.054),
        (19900, 23, False, 630, True, 1.474),
        (2650, 0, True, 630, True, 0.342),
        (2341, 23, False, 630, True, 0.582),
    ],
)
def test_seconds_of_a_micro_batch(
    tokens: int, checkpointed: int, keep: bool, mean_length: float, fused: bool, seconds: float
) -> None:
    expected = micro_batch_seconds(SHAPES, H200, tokens, checkpointed, keep, False, mean_length, fused)
    assert expected == pytest.approx(seconds, rel=0.15)


def test_a_slower_gpu_takes_longer() -> None:
    def seconds(name: str) -> float:
        return micro_batch_seconds(SHAPES, KNOWN[name].speed, 4096, 24, False, False, 1024, True)

    assert seconds("B200") < seconds("H200") < seconds("A100") < seconds("L4") < seconds("T4")


def test_attention_sees_the_window_or_half_the_sample() -> None:
    # 12 full layers see half of 1,000 tokens on average, 12 sliding ones 128; scores and values, 64 heads of 64.
    assert attention_products(SHAPES, 1000) == 2 * 64 * 64 * (12 * 500 + 12 * 128)
