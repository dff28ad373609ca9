"""The loss of a model on samples, in total and by channel.

It fits in the memory that training fits in: attention is that of training (`training_attention`), and logits are
computed for a few positions at a time and only where a token is trained. Imported after Unsloth.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import MoeModelOutputWithPast

from gptoss_ft.config import JobConfig
from gptoss_ft.data.channels import ChannelReader
from gptoss_ft.data.rendering import CHANNELS, IGNORED
from gptoss_ft.data.storage import PreparedData, Split
from gptoss_ft.errors import MachineError, NotFiniteError, SettingError
from gptoss_ft.inference.training_attention import training_attention
from gptoss_ft.reporting.evaluation_report import EvaluationReport

# Of float32 logits at once; the cross entropy holds three tensors of this size.
LOGITS_BYTES = 2**27


@dataclass(frozen=True)
class Loss:
    """The cross entropy of `tokens` trained tokens: `nats` is its sum."""

    tokens: int
    nats: float

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        return math.exp(self.mean)


@dataclass(frozen=True)
class Measured:
    """The losses of the channels that have trained tokens, in the order of `CHANNELS`."""

    channels: dict[str, Loss]

    @cached_property
    def total(self) -> Loss:
        losses = self.channels.values()
        return Loss(sum(loss.tokens for loss in losses), math.fsum(loss.nats for loss in losses))


def measure(model: Any, samples: pa.Table, reader: ChannelReader, rows_at_once: int) -> Measured:
    """The loss of `model` on `samples` (columns `input_ids` and `labels`, lists of int32), each token counted once.

    A token is counted where its label is trained and a token comes before it: the first one of a sample is not
    predicted. Leaves the modes of the model's modules and the state of the random generators as they were. Raises
    `NotFiniteError` for a loss that is no number, `MachineError` when the GPU's memory runs out.
    """
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    nats, tokens = np.zeros(len(CHANNELS)), np.zeros(len(CHANNELS), np.int64)
    try:
        # Not inference mode: Unsloth keeps masks for the next training step, which must be ordinary tensors.
        with torch.no_grad(), _autocast(model), training_attention(model) as multiple:
            for batch in _batches(samples, reader, rows_at_once, multiple):
                nats += np.bincount(batch.channels, _losses(causal, batch), len(CHANNELS))
                tokens += np.bincount(batch.channels, minlength=len(CHANNELS))
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"the GPU's memory ran out while evaluating: {str(error).splitlines()[0]}",
            "Lower training.per_device_train_batch_size or model.max_seq_length; RUN_EVALUATION=false leaves out the "
            "evaluation at the end.",
        ) from None
    if not np.isfinite(nats).all():
        raise NotFiniteError(
            f"evaluation: the loss is {nats.sum()}",
            "Lower training.learning_rate, or check the data set's rows; the checkpoints so far are kept.",
        )
    return Measured(
        {
            channel: Loss(int(count), float(sum_))
            for channel, count, sum_ in zip(CHANNELS, tokens, nats, strict=True)
            if count
        }
    )


def evaluate_split(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    data: PreparedData,
    job: JobConfig,
    name: str,
    split: Split = "eval",
    max_samples: int | None = None,
    at_once: int | None = None,
) -> EvaluationReport:
    """Measure `model`, called `name`, on a split's samples, all or the first `max_samples`, `at_once` at a time (None:
    the job's micro-batch); and where it is an adapter also its base model, which is the same one with adapters and
    saved modules off. Raises what `measure` does."""
    samples = (data.eval if split == "eval" else data.train)[:max_samples]
    reader, rows_at_once = ChannelReader(tokenizer), at_once or job.training.per_device_train_batch_size
    measured, base = measure(model, samples, reader, rows_at_once), None
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            base = measure(model, samples, reader, rows_at_once)
    return EvaluationReport(name, split, samples.num_rows, measured, base)


def require_held_out(data: PreparedData, cure: str) -> None:
    """Raise `SettingError` where no row is held out; `cure` is what the user can do."""
    if not data.eval.num_rows:
        raise SettingError("no row is held out for evaluation", cure, "dataset.eval_fraction")


@dataclass(frozen=True)
class _Batch:
    """Rows that are computed together. `ids`, int64 [rows, length]: padded on the right. Of each trained token, all
    [n]: the row and position that predict it, int64; its label, int64; and its index in `CHANNELS`."""

    ids: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    channels: NDArray[np.int8]


def _batches(samples: pa.Table, reader: ChannelReader, rows_at_once: int, multiple: int) -> Iterator[_Batch]:
    """The samples, longest first, so that little is padding and memory runs out at once or never. Every batch has
    `rows_at_once` rows, since another number would have to be compiled for."""
    all_ids, all_labels = samples["input_ids"], samples["labels"]
    lengths = pc.list_value_length(all_ids).to_numpy()
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), rows_at_once):
        chosen = order[start : start + rows_at_once]
        shape = (rows_at_once, -(-int(lengths[chosen[0]]) // multiple) * multiple)
        # Any token will do for padding: none before it sees it, and none after it is trained.
        ids, labels, channels = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64), np.zeros(shape, np.int8)
        for row, index in enumerate(chosen.tolist()):
            own_ids, own_labels = (column[index].values.to_numpy() for column in (all_ids, all_labels))
            ids[row, : len(own_ids)], labels[row, : len(own_ids)] = own_ids, own_labels
            channels[row, : len(own_ids)] = reader.read(own_ids, own_labels).channel_of
        rows, positions = np.nonzero(labels[:, 1:] != IGNORED)
        predicted = rows, positions + 1
        yield _Batch(
            ids=torch.from_numpy(ids),
            rows=torch.from_numpy(rows),
            positions=torch.from_numpy(positions),
            labels=torch.from_numpy(labels[predicted]),
            channels=channels[predicted],
        )


def _losses(causal: Any, batch: _Batch) -> NDArray[np.float64]:
    """The cross entropy of each trained token, in nats, [n]."""
    body = causal.base_model
    # Unsloth goes over to uncompiled code once a model was used for inference (compiler.py, "eager_on_recompile"), and
    # flex attention without the compiler is dense.
    with torch.compiler.set_stance("default"):
        output = body(input_ids=batch.ids.to(causal.device), use_cache=False)
    states = output.last_hidden_state
    hidden = states[batch.rows.to(states.device), batch.positions.to(states.device)]
    at_once = max(1, LOGITS_BYTES // (4 * causal.config.get_text_config().vocab_size))
    losses = [
        torch.nn.functional.cross_entropy(_logits(causal, body, some), labels, reduction="none")
        for some, labels in zip(
            torch.split(hidden, at_once), torch.split(batch.labels.to(states.device), at_once), strict=True
        )
    ]
    return torch.cat(losses).double().cpu().numpy()


def _logits(causal: Any, body: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The logits, float32 [n, vocabulary], of the last hidden states [n, width], by the model's own forward, so that
    what some models do to logits (scale, cap) and what PEFT has wrapped is done."""
    with _answering(body, hidden[None]):
        placeholder = torch.zeros((1, len(hidden)), dtype=torch.int64, device=hidden.device)
        logits: torch.Tensor = causal(input_ids=placeholder, use_cache=False).logits
    return logits[0].float()


@contextmanager
def _answering(body: Any, hidden: Any) -> Iterator[None]:
    """Have `body` answer every call with the last hidden states `hidden` for as long as this lasts."""
    own = body.__dict__.get("forward")
    body.forward = lambda *args, **kwargs: MoeModelOutputWithPast(last_hidden_state=hidden)
    try:
        yield
    finally:
        if own is None:
            del body.forward
        else:
            body.forward = own


def _autocast(model: Any) -> torch.autocast:
    """What the trainer computes in: 16 bits where the model's own type is one of them."""
    return torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32)
