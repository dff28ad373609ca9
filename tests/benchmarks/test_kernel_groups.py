"""Kernels of a trace, in groups: by the names that torch 2.11 and the zoo give them on an H200, and by shapes."""

import importlib
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
groups = importlib.import_module("kernel_groups")

SHAPES = groups.Shapes(vocabulary=201088, rank=8)
GROUPED = "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cutlass::gemm::GroupProblemShape<…>"
DENSE = "nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNN"


@pytest.mark.parametrize(
    ("name", "dims", "group"),
    [
        ("_nf4_dequant_stack_kernel", (), groups.DEQUANTIZATION),
        ("void kDequantizeBlockwise<__nv_bfloat16, 512, 64, 8, 2>(float*, unsigned char*)", (), groups.DEQUANTIZATION),
        (GROUPED, ((4096, 2880), (32, 2880, 5760)), groups.EXPERTS),
        (GROUPED, ((4096, 2880), (32, 2880, 8)), groups.LORA),
        ("void at::cuda::detail::prepare_grouped_gemm_data<…>", ((4096, 2880), (32, 2880, 5760)), groups.EXPERTS),
        (DENSE, ((4096, 2880), (2880, 4096)), groups.DENSE),
        (DENSE, ((4096, 2880), (2880, 8)), groups.LORA),
        (DENSE, ((1024, 2880), (2880, 201088)), groups.HEAD),
        ("aten::mm", ((4, 8), (8, 16)), groups.LORA),
        ("triton_tem_fused_flex_attention_0", (), groups.ATTENTION),
        ("triton_red_fused__log_softmax__to_copy_3", (), groups.HEAD),
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_1", (), groups.ELEMENTWISE),
        ("void kOptimizerStatic8bit2StateBlockwise<float, 0, 256, 1>", (), groups.OPTIMIZER),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<…LpNormFunctor…>", (), groups.OPTIMIZER),
        ("Memcpy DtoH (Device -> Pinned)", (), groups.HOST_COPIES),
        ("Memcpy DtoD (Device -> Device)", (), groups.ELEMENTWISE),
        ("void at::native::indexSelectLargeIndex<…>", (), groups.ROUTING),
    ],
)
def test_kernels_fall_into_their_groups(name: str, dims: tuple[tuple[int, ...], ...], group: str) -> None:
    assert groups.group_of(groups.Kernel(name, 0.0, 1.0, dims), SHAPES) == group


def event(kind: str, name: str, start: float, duration: float, **arguments: object) -> dict[str, object]:
    return {"ph": "X", "cat": kind, "name": name, "ts": start, "dur": duration, "tid": 1, "args": arguments}


def test_kernels_get_the_shapes_of_the_operator_that_launched_them(tmp_path: Path) -> None:
    events = [
        event("cpu_op", "aten::mm", 0, 5, **{"External id": 7, "Input Dims": [[4, 2880], [2880, 8], []]}),
        event("kernel", DENSE, 10, 30, **{"External id": 7}),
        event("kernel", "elementwise_kernel", 20, 40),
        event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 100, 10),
        {"ph": "f", "cat": "ac2g", "name": "ac2g", "ts": 1},
    ]
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"traceEvents": events}))
    kernels = groups.read_trace(trace, on_gpu=True)
    assert [kernel.dims for kernel in kernels] == [((4, 2880), (2880, 8), ()), (), ()]
    # From 10 to 60, two at once from 20 to 40, and from 100 to 110.
    assert groups.busy_microseconds(kernels) == 60
    spent = groups.milliseconds_by_group(kernels, SHAPES)
    assert {group: ms for group, ms in spent.items() if ms} == {
        groups.LORA: 0.03, groups.ELEMENTWISE: 0.04, groups.HOST_COPIES: 0.01,
    }  # fmt: skip
    assert groups.longest_names(kernels, SHAPES, 1) == [
        {"group": groups.ELEMENTWISE, "ms": 0.04, "runs": 1, "name": "elementwise_kernel"}
    ]


def test_operators_of_a_cpu_count_without_those_that_they_call(tmp_path: Path) -> None:
    events = [
        event("cpu_op", "aten::linear", 0, 10),
        event("cpu_op", "aten::addmm", 2, 6),
        event("cpu_op", "aten::copy_", 3, 1),
        event("cpu_op", "aten::add", 20, 5),
    ]
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"traceEvents": events}))
    durations = {kernel.name: kernel.duration for kernel in groups.read_trace(trace, on_gpu=False)}
    assert durations == {"aten::linear": 4, "aten::addmm": 5, "aten::copy_": 1, "aten::add": 5}
