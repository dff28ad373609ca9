"""Expected seconds against those that were measured on an H200, and what must hold between GPUs."""

import pytest
from test_memory import shapes_measured

from gptoss_ft.planning.gpus import KNOWN
from gptoss_ft.planning.speed import H200, attention_products, micro_batch_seconds

SHAPES = shapes_measured()


@pytest.mark.parametrize(
    ("samples", "checkpointed", "keep", "seconds"),
    [
        (1, 24, False, 0.306),
        (4, 24, False, 0.480),
        (16, 24, False, 1.704),
        (8, 0, False, 0.645),
        (16, 0, False, 1.199),
        (4, 0, True, 0.357),
    ],
)
def test_seconds_of_a_micro_batch_of_1024_tokens_a_sample(
    samples: int, checkpointed: int, keep: bool, seconds: float
) -> None:
    expected = micro_batch_seconds(SHAPES, H200, 1024 * samples, checkpointed, keep, False, 1024)
    assert expected == pytest.approx(seconds, rel=0.15)


def test_a_slower_gpu_takes_longer() -> None:
    def seconds(name: str) -> float:
        return micro_batch_seconds(SHAPES, KNOWN[name].speed, 4096, 24, False, False, 1024)

    assert seconds("B200") < seconds("H200") < seconds("A100") < seconds("L4") < seconds("T4")


def test_attention_sees_the_window_or_half_the_sample() -> None:
    # 12 full layers see half of 1,000 tokens on average, 12 sliding ones 128; scores and values, 64 heads of 64.
    assert attention_products(SHAPES, 1000) == 2 * 64 * 64 * (12 * 500 + 12 * 128)
