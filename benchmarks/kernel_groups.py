"""What a step's time goes to: the kernels of a torch.profiler trace, in groups by their names and operands' shapes."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Dims = tuple[tuple[int, ...], ...]

DEQUANTIZATION = "dequantization of NF4 weights"
EXPERTS = "expert matmul"
LORA = "LoRA matmul"
ATTENTION = "attention"
DENSE = "dense matmul of attention and router"
HEAD = "unembedding and cross entropy"
ROUTING = "routing and permutation of tokens"
ELEMENTWISE = "norms, elementwise, copies"
HOST_COPIES = "copies to and from the host"
OPTIMIZER = "optimizer and clipping"
GROUPS = (DEQUANTIZATION, EXPERTS, LORA, ATTENTION, DENSE, HEAD, ROUTING, ELEMENTWISE, HOST_COPIES, OPTIMIZER)

MATMUL = re.compile(r"gemm|nvjet|cutlass|xmma|splitk|cublas|(^|::|_)(mm|addmm|bmm|baddbmm|gemv|_grouped_mm)(_|$)", re.I)
# In this order; what none of them names is elementwise work.
RULES = (
    (HOST_COPIES, re.compile(r"memcpy (htod|dtoh)", re.I)),
    (OPTIMIZER, re.compile(r"adam|koptimizer|multi_tensor|foreach|lpnorm", re.I)),
    (DEQUANTIZATION, re.compile(r"nf4|dequant|mxfp4", re.I)),
    (ATTENTION, re.compile(r"triton_tem|flex|fmha|flash|sdpa|scaled_dot|aten::_?softmax|_softmax_backward", re.I)),
    (HEAD, re.compile(r"log_softmax|nll|cross_entropy|logsumexp|logprob", re.I)),
    (ROUTING, re.compile(r"topk|sort|scatter|gather|index|histc|bincount|cumsum|route|combine|nonzero", re.I)),
)


@dataclass(frozen=True)
class Kernel:
    """One run of a kernel; times in microseconds. On a CPU one of an operator, without those that it calls. `dims` are
    the shapes of the launching operator's inputs, where the trace has them."""

    name: str
    start: float
    duration: float
    dims: Dims = ()


@dataclass(frozen=True)
class Shapes:
    """What tells matrix products apart: the vocabulary, and the adapter's rank."""

    vocabulary: int
    rank: int


def group_of(kernel: Kernel, shapes: Shapes) -> str:
    """The group of a kernel."""
    if MATMUL.search(kernel.name) and not re.search(r"nf4|dequant", kernel.name, re.I):
        operands = [dims[-2:] for dims in kernel.dims[:3] if len(dims) >= 2]
        if any(shapes.vocabulary in dims for dims in operands):
            return HEAD
        # Kernels want multiples of 16 bytes: a small rank may be padded to 16.
        if any(rank in dims for dims in operands for rank in (shapes.rank, max(shapes.rank, 16))):
            return LORA
        return EXPERTS if re.search(r"group", kernel.name, re.I) else DENSE
    return next((group for group, rule in RULES if rule.search(kernel.name)), ELEMENTWISE)


def read_trace(path: Path, on_gpu: bool) -> list[Kernel]:
    """The kernels of a Chrome trace that torch.profiler exported, with shapes recorded."""
    events = [event for event in json.loads(path.read_text(encoding="utf-8"))["traceEvents"] if event.get("ph") == "X"]
    operators = [event for event in events if event.get("cat") == "cpu_op"]
    if not on_gpu:
        return [_kernel(event, event) for event in _without_children(operators)]
    by_id = {event["args"]["External id"]: event for event in operators if "External id" in event.get("args", {})}
    return [
        _kernel(event, by_id.get(event.get("args", {}).get("External id")))
        for event in events
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]


def _kernel(event: dict[str, Any], operator: dict[str, Any] | None) -> Kernel:
    dims = operator.get("args", {}).get("Input Dims", []) if operator else []
    # A list of tensors has a list of shapes.
    flat = tuple(tuple(each) for each in dims if all(isinstance(size, int) for size in each))
    return Kernel(event["name"], float(event["ts"]), float(event["dur"]), flat)


def _without_children(operators: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Operators whose duration is less that of the operators which they call."""
    by_thread: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for event in operators:
        by_thread[event["tid"]].append({**event, "end": event["ts"] + event["dur"]})
    for events in by_thread.values():
        events.sort(key=lambda event: (event["ts"], -event["dur"]))
        callers: list[dict[str, Any]] = []
        for event in events:
            while callers and callers[-1]["end"] <= event["ts"]:
                callers.pop()
            if callers:
                callers[-1]["dur"] -= event["end"] - event["ts"]
            callers.append(event)
    return [event for events in by_thread.values() for event in events]


def busy_microseconds(kernels: Iterable[Kernel]) -> float:
    """Time in which at least one kernel ran."""
    total = end = 0.0
    for kernel in sorted(kernels, key=lambda kernel: kernel.start):
        stop = kernel.start + kernel.duration
        total += max(0.0, stop - max(end, kernel.start))
        end = max(end, stop)
    return total


def milliseconds_by_group(kernels: Sequence[Kernel], shapes: Shapes) -> dict[str, float]:
    """Every group's kernel time. Kernels of two streams at once count both."""
    spent = dict.fromkeys(GROUPS, 0.0)
    for kernel in kernels:
        spent[group_of(kernel, shapes)] += kernel.duration / 1000
    return spent


def longest_names(kernels: Sequence[Kernel], shapes: Shapes, count: int) -> list[dict[str, Any]]:
    """The kernels that took most, by name and group: milliseconds and runs."""
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for kernel in kernels:
        spent[group_of(kernel, shapes), kernel.name].append(kernel.duration / 1000)
    ranked = sorted(spent.items(), key=lambda item: -sum(item[1]))[:count]
    return [
        {"group": group, "ms": round(sum(times), 3), "runs": len(times), "name": name}
        for (group, name), times in ranked
    ]
