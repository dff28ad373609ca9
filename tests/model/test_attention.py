"""Documents in one row: what a model computes of each is what it computes of it alone."""

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from gptoss_ft.model.attention import blind_to_documents, dense_masks, document_attention, positions
from gptoss_ft.runtime import fresh_environment

LENGTHS = (40, 3, 150, 61)


@pytest.fixture(scope="module", params=["tiny_gpt_oss", "tiny_llama"])
def model(request: pytest.FixtureRequest) -> Any:
    return AutoModelForCausalLM.from_pretrained(request.getfixturevalue(request.param), dtype=torch.float32).train()


def row() -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, 400, (length,), generator=generator) for length in LENGTHS]
    numbers = torch.repeat_interleave(torch.arange(len(LENGTHS), dtype=torch.int32), torch.tensor(LENGTHS))
    return ids, numbers[None]


def packed_logits(model: Any, ids: list[torch.Tensor], documents: torch.Tensor) -> torch.Tensor:
    attention = document_attention(model)
    assert attention is not None
    with torch.no_grad(), attention.over(documents) as inputs:
        logits: torch.Tensor = model(input_ids=torch.cat(ids)[None], use_cache=False, **inputs).logits[0]
    return logits


def off_by(model: Any) -> float:
    """The largest relative difference of a document's logits, packed against alone."""
    ids, documents = row()
    packed = packed_logits(model, ids, documents).split(LENGTHS)
    with torch.no_grad():
        alone = [model(input_ids=own[None], use_cache=False).logits[0] for own in ids]
    return max(float((one - other).norm() / other.norm()) for one, other in zip(packed, alone, strict=True))


def test_packed_logits_are_those_of_each_document_alone(model: Any) -> None:
    assert off_by(model) < 1e-5


def test_a_mask_that_leaks_is_seen(model: Any) -> None:
    with blind_to_documents():
        assert off_by(model) > 0.05


def test_attention_is_as_before_afterwards(model: Any) -> None:
    ids, documents = row()
    with torch.no_grad():
        before = model(input_ids=ids[2][None]).logits
        packed_logits(model, ids, documents)
        assert torch.equal(model(input_ids=ids[2][None]).logits, before)


def test_positions_start_anew_with_each_document() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 2, 2, 3]], dtype=torch.int32)
    assert positions(documents).tolist() == [[0, 1, 2, 0, 0, 1, 0]]


def test_dense_masks_against_a_second_derivation() -> None:
    """Token by token, in the words of the paper: causal, inside the document, and in the window where it slides."""
    numbers = [0, 0, 0, 0, 1, 1, 1, 2]
    masks = dense_masks(torch.tensor([numbers], dtype=torch.int32), 2, torch.float32)
    for kind, reach in (("full_attention", 8), ("sliding_attention", 2)):
        found = (masks[kind][0, 0] == 0).tolist()
        wanted = [[numbers[i] == numbers[j] and 0 <= i - j < reach for j in range(8)] for i in range(8)]
        assert found == wanted
        assert masks[kind].min() == torch.finfo(torch.float32).min


def test_a_model_that_was_not_tried_has_no_way() -> None:
    assert (
        document_attention(SimpleNamespace(config=SimpleNamespace(model_type="falcon"), device=torch.device("cpu")))
        is None
    )


# Unsloth's flex attention for gpt-oss is imported where there is a GPU; its uncompiled form computes without one.
FLEX = """
import json, sys, types
import torch
torch.cuda.device_count = lambda: 1
torch.cuda.get_device_properties = lambda index: types.SimpleNamespace(total_memory=80 * 2**30, is_integrated=False)
from gptoss_ft.runtime import find_device, import_unsloth, prepare_environment
prepare_environment()
import_unsloth(find_device("cpu"))
import unsloth_zoo.integrated_device as integrated
integrated.cuda_total_memory = lambda index, props=None: 80 * 2**30
for name in [name for name in sys.modules if name.startswith("unsloth_zoo.flex_attention")]:
    del sys.modules[name]
import unsloth_zoo.flex_attention.attention_sink as sink
from gptoss_ft.model.attention import FlexDocuments, dense_masks

heads, length, width, window = 4, 120, 16, 32
torch.manual_seed(0)
query, key, value = (torch.randn(1, n, length, width) for n in (heads, 2, 2))
documents = torch.repeat_interleave(torch.arange(3, dtype=torch.int32), torch.tensor([50, 7, 63]))[None]
masks = dense_masks(documents, window, torch.float32)
found = {}
for kind, sliding in (("full_attention", None), ("sliding_attention", window)):
    layer = types.SimpleNamespace(
        sinks=torch.randn(heads), num_key_value_groups=2, scaling=0.25, sliding_window=sliding, training=True
    )
    attend = lambda: sink.flex_attention_with_sink(layer, query, key, value, compile=False)[0].transpose(0, 1)
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) * 0.25 + masks[kind]
    scores = torch.cat([scores, layer.sinks[None, :, None, None].expand(1, heads, length, 1)], -1)
    wanted = (scores.softmax(-1)[..., :-1] @ value.repeat_interleave(2, 1))[0]
    before = attend()
    with FlexDocuments().over(documents):
        within = attend()
    after = attend()
    off = [float((one - wanted).norm() / wanted.norm()) for one in (within, before)]
    found[kind] = [*off, torch.equal(before, after)]
print(json.dumps(found))
"""


def test_flex_attention_under_unsloth_keeps_to_documents() -> None:
    """Fails when Unsloth no longer asks for its masks where they are replaced."""
    done = subprocess.run(
        [sys.executable, "-c", FLEX], env=fresh_environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for within, leaking, restored in json.loads(done.stdout.splitlines()[-1]).values():
        assert within < 1e-5
        assert leaking > 0.05
        assert restored
