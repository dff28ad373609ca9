"""The weights of a checkpoint folder under stock transformers' names, in 16 or 32 bits, one tensor at a time.

Read are safetensors of these layouts, which may be mixed:

- a tensor as it is;
- bitsandbytes' 4 bits: `X.weight` with the parts of its quantization state (`X.weight.absmax`, …);
- MXFP4: `X_blocks` and `X_scales`, of gpt-oss's experts;
- Unsloth's split gpt-oss: `mlp.experts.gate_up_projs.N` and `down_projs.N`, one linear layer an expert and so
  [out, in], where the stock parameter is [experts, in, out]; and `mlp.router.linear`.

A 16-bit checkpoint that was quantized while it was loaded is quantized and dequantized again, for those are the weights
that were trained on. On the kind of device that it was trained on, the numbers are the same.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from gptoss_ft.errors import DataError, ExportError
from gptoss_ft.merging.stock_model import StockModel
from gptoss_ft.model.adapter_layout import fused_parameter

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class Place(NamedTuple):
    """A tensor of the stock model, or the part of it that belongs to one expert."""

    name: str
    expert: int | None = None


def stock_place(name: str) -> Place:
    """Where a tensor of the split layout stands in the stock model; a stock name stands for itself."""
    module, _, leaf = name.rpartition(".")
    fused = fused_parameter(module)
    if fused is not None:
        return Place(f"{fused}_bias" if leaf == "bias" else fused, int(module.rpartition(".")[2]))
    # Unsloth's router keeps its weight one level deeper than the stock one.
    if module.endswith(".router.linear"):
        return Place(f"{module.removesuffix('.linear')}.{leaf}")
    return Place(name)


class Source(NamedTuple):
    """How a stock tensor is stored, and under which names: one, or one an expert."""

    layout: Literal["whole", "mxfp4", "split"]
    names: tuple[str, ...]


class BaseWeights:
    """Every stock tensor of the checkpoint `folder`.

    `quantized_as` is the dtype that a run computed in which quantized this 16-bit checkpoint while it loaded it, None
    where it was loaded as it is. Raises `DataError` for a tensor that lacks or that nothing asks for, and `ExportError`
    for experts that were quantized at load.
    """

    def __init__(
        self, folder: Path, stock: StockModel, device: torch.device, quantized_as: torch.dtype | None = None
    ) -> None:
        self._folder, self._stock, self._device, self._quantized_as = folder, stock, device, quantized_as
        self._files = _files_of(folder)
        self._states = _quantization_states(self._files)
        self._open: dict[str, Any] = {}
        self._refuse_quantized_experts()
        self._sources = self._find_sources()

    @property
    def files(self) -> list[Path]:
        """The safetensors files that the tensors are in, each once."""
        return [self._folder / file for file in sorted(set(self._files.values()))]

    def read(self, name: str) -> torch.Tensor:
        """The stock tensor `name` on the CPU, in the dtype that it is stored in or was quantized from."""
        layout, names = self._sources[name]
        shape = self._stock.shapes[name]
        if layout == "mxfp4":
            tensor = self._mxfp4(name, shape)
        elif layout == "split":
            tensor = self._stacked(names, shape)
        else:
            tensor = self._linear(names[0])
            if self._quantized_as is not None and name in self._stock.linear:
                tensor = _quantized(tensor, self._quantized_as, self._device)
        if tuple(tensor.shape) != shape:
            raise DataError(
                f"{self._folder}: {name} is {list(tensor.shape)}, and the model of its config.json has {list(shape)}"
            )
        return tensor.cpu()

    def release(self) -> None:
        """Close the files: what was read of them is mapped memory until then."""
        self._open.clear()

    def _find_sources(self) -> dict[str, Source]:
        split: dict[str, dict[int, str]] = {}
        renamed: dict[str, str] = {}
        for stored in self._files:
            place = stock_place(stored)
            if place.expert is not None:
                split.setdefault(place.name, {})[place.expert] = stored
            elif place.name != stored:
                renamed[place.name] = stored
        found: dict[str, Source] = {}
        for name, shape in self._stock.shapes.items():
            experts = split.get(name, {})
            if name in self._files:
                found[name] = Source("whole", (name,))
            elif {f"{name}_blocks", f"{name}_scales"} <= self._files.keys():
                found[name] = Source("mxfp4", (f"{name}_blocks", f"{name}_scales"))
            elif experts and sorted(experts) == list(range(shape[0])):
                found[name] = Source("split", tuple(experts[number] for number in range(shape[0])))
            elif name in renamed:
                found[name] = Source("whole", (renamed[name],))
        for name, source in self._stock.tied.items():
            if name not in found and source in found:
                found[name] = found[source]
        self._refuse_missing(found)
        self._refuse_left_over(found)
        return found

    def _refuse_missing(self, found: dict[str, Source]) -> None:
        if missing := [name for name in self._stock.shapes if name not in found]:
            raise DataError(
                f"{self._folder} lacks {some(missing)} of {self._stock.architecture}, or holds it in a layout that is "
                "not known here",
                "Download it again, or name a checkpoint that is whole.",
            )

    def _refuse_left_over(self, found: dict[str, Source]) -> None:
        used = {name for source in found.values() for name in source.names}
        used |= {part for name in used for part in self._states.get(name, ())}
        if left := [name for name in self._files if name not in used and not self._stock.ignores(name)]:
            raise DataError(f"{self._folder} holds {some(left)}, which {self._stock.architecture} has no place for")

    def _refuse_quantized_experts(self) -> None:
        experts = [name for name, shape in self._stock.shapes.items() if len(shape) == 3]
        if self._quantized_as is not None and experts:
            raise ExportError(
                f"{self._folder} holds 16-bit experts that were quantized when the run loaded them, in a way that only "
                f"Unsloth does: {experts[0]}",
                "Merge into the 16-bit weights themselves: --base original.",
            )

    def _stored(self, name: str) -> torch.Tensor:
        return self._handle(name).get_tensor(name)  # type: ignore[no-any-return]  # safetensors has no stubs

    def _handle(self, name: str) -> Any:
        from safetensors import safe_open

        file = self._files[name]
        if file not in self._open:
            self._open[file] = safe_open(self._folder / file, framework="pt")
        return self._open[file]

    def _linear(self, name: str) -> torch.Tensor:
        """A stored tensor on the CPU, or dequantized on the device where bitsandbytes' state is beside it."""
        tensor = self._stored(name)
        if name not in self._states:
            if not tensor.is_floating_point() or tensor.element_size() < 2:
                raise DataError(f"{self._folder}: {name} is {tensor.dtype}, of a quantization that is not known here")
            return tensor
        from bitsandbytes.functional import QuantState, dequantize_4bit

        state = QuantState.from_dict({part: self._stored(part) for part in self._states[name]}, device=self._device)
        return dequantize_4bit(tensor.to(self._device), state)

    def _stacked(self, names: tuple[str, ...], shape: tuple[int, ...]) -> torch.Tensor:
        """Experts' linear weights [out, in] as [experts, in, out], or their biases [out] as [experts, out]."""
        stacked: torch.Tensor | None = None
        for number, name in enumerate(names):
            tensor = self._linear(name)
            tensor = tensor.T.contiguous() if tensor.ndim == 2 else tensor
            if tuple(tensor.shape) != shape[1:]:
                raise DataError(
                    f"{self._folder}: {name} is {list(tensor.shape)[::-1]}, which does not fit {list(shape)}"
                )
            if stacked is None:
                stacked = torch.empty(shape, dtype=tensor.dtype)
            stacked[number] = tensor
        assert stacked is not None, "a source of this layout has experts"
        return stacked

    def _mxfp4(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        blocks, scales = (self._handle(part).get_slice(part) for part in (f"{name}_blocks", f"{name}_scales"))
        # One expert at a time: in float32 all of them would take much memory.
        return torch.stack(
            [
                _from_mxfp4(blocks[expert].to(self._device), scales[expert].to(self._device))
                for expert in range(shape[0])
            ]
        )


# The magnitudes of a 4-bit float with two exponent bits and one of mantissa (OCP Microscaling Formats 1.0).
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E8M0_BIAS = 127


def _from_mxfp4(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """One expert's weight [in, out], bfloat16 on the CPU, from `blocks` (uint8 [out, groups, 16], two values a byte,
    the first in the low half) and `scales` (uint8 [out, groups], powers of two). Written out here because Unsloth
    replaces transformers' own function by one of another orientation."""
    values = torch.tensor([*_E2M1, *(-value for value in _E2M1)], dtype=torch.bfloat16, device=blocks.device)
    pairs = torch.stack([values[(blocks & 15).int()], values[(blocks >> 4).int()]], dim=-1)
    scaled = torch.ldexp(pairs.flatten(start_dim=2), scales.int()[..., None] - _E8M0_BIAS)
    return scaled.flatten(start_dim=1).T.contiguous().cpu()


def _quantized(weight: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    # As Linear4bit does with the settings that Unsloth gives it.
    packed, state = quantize_4bit(weight.to(device, dtype), blocksize=64, quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(packed, state)


def _quantization_states(names: Iterable[str]) -> dict[str, list[str]]:
    """For each weight in bitsandbytes' 4 bits, the names of the parts of its quantization state."""
    states: dict[str, list[str]] = {}
    for name in names:
        module, found, _ = name.rpartition(".weight.")
        if found:
            states.setdefault(f"{module}.weight", []).append(name)
    return states


def _files_of(folder: Path) -> dict[str, str]:
    """The file of every stored tensor. `DataError` where there are no safetensors, or one is broken."""
    from safetensors import SafetensorError, safe_open

    try:
        if (folder / INDEX).is_file():
            names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        else:
            names = [SINGLE]
        files: dict[str, str] = {}
        for name in names:
            with safe_open(folder / name, framework="pt") as tensors:
                files |= dict.fromkeys(tensors.keys(), name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise DataError(
            f"{folder} holds no safetensors that can be read: {' '.join(str(error).split())}",
            "Download it again, or name a checkpoint that is whole.",
        ) from None
    return files


def some(names: list[str]) -> str:
    """The first three names, and how many there are beside them."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(sorted(names)[:3])}{more}"
