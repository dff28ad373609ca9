"""What is forgotten of a GPU's memory that ran out."""

from typing import Any

import pytest

from gptoss_ft.training.out_of_memory import forget_what_ran_out


def test_unsloths_loss_compiles_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from unsloth_zoo.fused_losses import cross_entropy_loss

    loss: Any = cross_entropy_loss
    monkeypatch.setattr(loss, "_FUSED_CE_COMPILE_DISABLED", False)
    for before, after in ((False, None), (True, True), (None, None)):
        monkeypatch.setattr(loss, "_FUSED_CE_COMPILE_SUPPORTED", before)
        forget_what_ran_out()
        assert loss._FUSED_CE_COMPILE_SUPPORTED is after
    # Who has it never compiled is left at that.
    monkeypatch.setattr(loss, "_FUSED_CE_COMPILE_DISABLED", True)
    monkeypatch.setattr(loss, "_FUSED_CE_COMPILE_SUPPORTED", False)
    forget_what_ran_out()
    assert loss._FUSED_CE_COMPILE_SUPPORTED is False


def test_chunks_are_sized_anew() -> None:
    from unsloth_zoo.fused_losses import cross_entropy_loss

    multiplier: Any = cross_entropy_loss._get_chunk_multiplier
    multiplier(1000, 4.0, 0.0, None)
    assert multiplier.cache_info().currsize > 0
    forget_what_ran_out()
    assert multiplier.cache_info().currsize == 0
