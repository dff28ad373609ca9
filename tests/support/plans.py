"""Plans as tests want them, without a GPU that they would be made for."""

from typing import Literal

from gptoss_ft.planning.plan import Plan


def plan(
    rows: Literal["packed", "padded", "as configured"],
    row_tokens: int = 400,
    rows_at_once: int = 1,
    checkpointed: int = 0,
    longest: int = 150,
) -> Plan:
    return Plan(
        rows=rows,
        row_tokens=row_tokens,
        rows_at_once=rows_at_once,
        checkpointed_layers=checkpointed,
        keep_dequantized=False,
        offload_embedding=False,
        estimate=None,
        reasons=(),
        tokens_per_second=None,
        seconds=None,
        fits=True,
        cures=(),
        longest_sample=longest,
        room=None,
    )
