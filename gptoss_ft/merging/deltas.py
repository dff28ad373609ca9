"""An adapter folded into the weights of a stock model, a tensor at a time.

Low-rank pairs are added to a weight: W + scaling · B A, on a linear weight [out, in]. With a magnitude m (DoRA) the
rows of that sum are scaled to have the norm m: m / ‖W + scaling · B A‖ (PEFT 0.21.2, lora/variants.py,
DoraLinearVariant.merge_safe). Whatever else an adapter holds, modules saved whole and trained biases, replaces what
the model has.
"""

from pathlib import Path
from typing import Any

import torch

from gptoss_ft.errors import DataError, ExportError
from gptoss_ft.merging.adapter_places import WHOLE_ADAPTER, Change, LowRank, Settings, place_tensors, read_settings
from gptoss_ft.merging.stock_model import StockModel

WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"


def open_adapter(folder: Path) -> tuple[Any, Settings]:
    """safetensors' handle of the adapter in `folder`, and its settings. `DataError` where it is broken or pickled, and
    `ExportError` for one of a kind that is not merged here."""
    from safetensors import SafetensorError, safe_open

    settings = read_settings(folder)
    if not (folder / WEIGHTS).is_file() and (folder / PICKLED).is_file():
        raise DataError(
            f"{folder} holds its weights as {PICKLED}, which is not merged",
            "Write it as safetensors first, with `export --format portable-adapter`, and merge what that wrote.",
        )
    try:
        return safe_open(folder / WEIGHTS, framework="pt"), settings
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{folder / WEIGHTS} cannot be read: {reason}", WHOLE_ADAPTER) from None


class Deltas:
    """The adapter in `folder`, for the model `stock`. Raises `ExportError` for a tensor that has no place there, and
    what `open_adapter` raises.

    Sums are computed in float32 on `device`.
    """

    def __init__(self, folder: Path, stock: StockModel, device: torch.device) -> None:
        self._stock, self._device = stock, device
        file, (self._r, self._scaling) = open_adapter(folder)
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no mapping
        self._file = file
        self._changes = place_tensors(shapes, stock, self._r)

    @property
    def changed(self) -> set[str]:
        """Names of the stock tensors that are no longer the base model's."""
        return set(self._changes)

    def apply(self, name: str, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The stock tensor `name` in `dtype`, rounded once, from the base model's `weight`; both on the CPU."""
        change = self._changes.get(name)
        if change is None:
            return weight.to(dtype)
        base = self._replaced(change, weight)
        merged = base.to(dtype, copy=True)
        for expert, pair in change.low_rank.items():
            if pair.packed:
                self._add_to_experts(name, pair, base, merged)
                continue
            a, b = self._matrix(pair.a), self._matrix(pair.b)
            # A weight [in, out] is the transpose of a linear one; so is an embedding.
            transposed = pair.embedding or name in self._stock.transposed
            if expert is None:
                self._add(base, a, b, pair.magnitude, transposed, merged)
            else:
                self._add(base[expert], a, b, pair.magnitude, transposed, merged[expert])
        return merged

    def _replaced(self, change: Change, weight: torch.Tensor) -> torch.Tensor:
        if None in change.replaced:
            return self._tensor(change.replaced[None])
        if change.replaced:
            weight = weight.to(torch.float32, copy=True)
            for expert, name in change.replaced.items():
                weight[expert] = self._tensor(name)
        return weight

    def _add_to_experts(self, name: str, pair: LowRank, base: torch.Tensor, merged: torch.Tensor) -> None:
        """PEFT's packing (0.21.2, ParamWrapper.get_delta_weight): A's rows are expert by expert, B's columns rank by
        rank."""
        experts, transposed = base.shape[0], name in self._stock.transposed
        all_a, all_b = self._matrix(pair.a), self._matrix(pair.b)
        for expert in range(experts):
            a, b = all_a[expert * self._r : (expert + 1) * self._r], all_b[:, expert::experts]
            self._add(base[expert], a, b, None, transposed, merged[expert])

    def _add(
        self,
        base: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        magnitude: str | None,
        transposed: bool,
        merged: torch.Tensor,
    ) -> None:
        """Write the sum of a weight and its pair, float32, to `merged`. In the weight's own order of axes: turning each
        expert around takes longer than the sum."""
        weight = base.to(self._device, torch.float32)
        total = torch.addmm(weight, *((a.T, b.T) if transposed else (b, a)), alpha=self._scaling)
        if magnitude is not None:
            inputs = 0 if transposed else 1
            total *= (self._matrix(magnitude) / torch.linalg.norm(total, dim=inputs)).unsqueeze(inputs)
        if not torch.isfinite(total).all():
            raise ExportError("the adapter holds values that are not finite", "Merge an earlier checkpoint.")
        merged.copy_(total)

    def _matrix(self, name: str) -> torch.Tensor:
        return self._tensor(name).to(self._device, torch.float32)

    def _tensor(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name)  # type: ignore[no-any-return]  # safetensors has no stubs
