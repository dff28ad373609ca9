"""Attention over rows of documents: samples laid end to end, none of which sees another.

How a model is told depends on who computes its attention; `document_attention` knows it for the models that are tried.
Position ids restart with each document in all of them.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, and_masks

from gptoss_ft.planning.shapes import PACKABLE

ZOO_MODULE = "unsloth_zoo.temporary_patches.gpt_oss"
# The zoo sets it where it has put flex attention into gpt-oss: on a GPU, unless that is switched off.
ZOO_FLAG = "_GPT_OSS_FLEX_SINK_ATTENTION_INSTALLED"
# Where the zoo's flex attention for gpt-oss asks for its block masks, and by which name (unsloth_zoo 2026.10.9).
SINK_MODULE = "unsloth_zoo.flex_attention.attention_sink"
MASK_FUNCTION = "reused_compiled_create_block_mask"
# Side of a block of flex attention's mask, to whose multiples rows are padded.
BLOCK = 128

_blind = False


class DocumentAttention(ABC):
    """How a model's attention is kept inside documents."""

    @contextmanager
    def over(self, documents: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
        """While this lasts, forward and backward passes on a row keep to its documents.

        `documents`, int32 [1, length] on the model's device: the number of each token's document, which never falls.
        Yields what the model's forward takes beside `input_ids`.
        """
        seen = torch.zeros_like(documents) if _blind else documents
        with self._masked(seen):
            yield {"position_ids": positions(seen)}

    @abstractmethod
    def _masked(self, documents: torch.Tensor) -> Any: ...


class FlexDocuments(DocumentAttention):
    """gpt-oss on a GPU: in training Unsloth computes flex attention, whose block masks know only causality and the
    window. Here they also know the documents; each is made once a row, and shared by layers and by recomputation."""

    @contextmanager
    def _masked(self, documents: torch.Tensor) -> Iterator[None]:
        sink = sys.modules[SINK_MODULE]
        original = getattr(sink, MASK_FUNCTION)
        made: dict[tuple[Callable[..., Any], Any], BlockMask] = {}

        def block_mask(
            rule: Callable[..., Any], batch: Any, head: Any, queries: int, keys: int, device: Any
        ) -> BlockMask:
            # A model may lie on several GPUs.
            if (rule, device) not in made:
                both = and_masks(rule, _same_document(documents[0].to(device)))
                made[rule, device] = sink.compiled_create_block_mask(both, None, None, queries, keys, device=device)
            return made[rule, device]

        setattr(sink, MASK_FUNCTION, block_mask)
        try:
            yield
        finally:
            setattr(sink, MASK_FUNCTION, original)


def _same_document(row: torch.Tensor) -> Callable[..., Any]:
    def rule(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return row[query] == row[key]

    return rule


class MaskedDocuments(DocumentAttention):
    """gpt-oss with transformers' eager attention, as on a CPU: its body makes masks without looking at position ids
    (transformers 5.17.0), so they are handed to it. They take length × length values each."""

    def __init__(self, body: Any) -> None:
        self._body = body

    @contextmanager
    def _masked(self, documents: torch.Tensor) -> Iterator[None]:
        masks = dense_masks(documents, self._body.config.sliding_window, self._body.dtype)

        def hand_over(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, "attention_mask": masks}

        hook = self._body.register_forward_pre_hook(hand_over, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


class PositionedDocuments(DocumentAttention):
    """Llama's kin: transformers and Unsloth see the documents in the position ids, where there is no attention mask."""

    @contextmanager
    def _masked(self, documents: torch.Tensor) -> Iterator[None]:
        yield


def document_attention(model: Any) -> DocumentAttention | None:
    """The way to keep `model`'s attention inside documents; None where none is known, or Unsloth has changed what
    `FlexDocuments` replaces."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind, on_gpu = causal.config.model_type, causal.device.type == "cuda"
    if kind == "gpt_oss":
        if not flex_is_installed():
            return MaskedDocuments(causal.base_model)
        sink = sys.modules.get(SINK_MODULE)
        known = all(hasattr(sink, name) for name in (MASK_FUNCTION, "compiled_create_block_mask"))
        return FlexDocuments() if known else None
    if kind in PACKABLE:
        if on_gpu:
            # Otherwise Unsloth cuts rows longer than max_seq_length (2026.10.9, models/llama.py).
            for module in causal.modules():
                if hasattr(module, "max_seq_length"):
                    module._unsloth_allow_packed_overlength = True
        return PositionedDocuments()
    return None


def flex_is_installed() -> bool:
    """Whether Unsloth computes gpt-oss's attention in training by flex attention."""
    zoo = sys.modules.get(ZOO_MODULE)
    return zoo is not None and bool(getattr(zoo, ZOO_FLAG))


def positions(documents: torch.Tensor) -> torch.Tensor:
    """The place of each token in its document, int64 [1, length]."""
    along = torch.arange(documents.shape[1], device=documents.device)
    starts = torch.ones_like(documents[0], dtype=torch.bool)
    starts[1:] = documents[0, 1:] != documents[0, :-1]
    return (along - torch.cummax(torch.where(starts, along, 0), dim=0).values)[None]


def dense_masks(documents: torch.Tensor, window: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What is added to the scores of gpt-oss's two kinds of layers, [1, 1, length, length]: 0 where a token may look,
    the lowest number elsewhere. In a sliding layer a token sees itself and the `window` - 1 before it."""
    along = torch.arange(documents.shape[1], device=documents.device)
    distance = along[:, None] - along[None, :]
    seen = (documents[0][:, None] == documents[0][None, :]) & (distance >= 0)
    kinds = {"full_attention": seen, "sliding_attention": seen & (distance < window)}
    added = torch.zeros((1, 1, *seen.shape), dtype=dtype, device=documents.device)
    return {kind: added.masked_fill(~mask, torch.finfo(dtype).min) for kind, mask in kinds.items()}


@contextmanager
def blind_to_documents() -> Iterator[None]:
    """Let documents of a row see each other, which is wrong: what benchmarks and tests compare with."""
    global _blind
    _blind = True
    try:
        yield
    finally:
        _blind = False
