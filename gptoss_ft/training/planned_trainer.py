"""TRL's SFTTrainer, but for how an optimizer step is computed: as the plan says.

The data loader yields all samples of a step at once, so that its order, the seeds and the schedule know nothing of
micro-batches. Imported after Unsloth, which replaces TRL's classes.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from gptoss_ft.data.rendering import IGNORED
from gptoss_ft.model.attention import BLOCK, DocumentAttention, flex_is_installed
from gptoss_ft.planning.plan import Plan
from gptoss_ft.runtime import Device, hold_experts_dequantized, release_cached_memory
from gptoss_ft.training.micro_batches import MicroBatch, Step, collate, divide
from gptoss_ft.training.saving_trainer import SavingTrainer

# Called when memory has run out and the step is computed again: the plan from now on.
Replanned = Callable[[Plan], None]


class PlannedTrainer(SavingTrainer):
    """`attention`: how documents in one row are kept apart; without it no plan may have packed rows."""

    def __init__(
        self,
        *args: Any,
        plan: Plan,
        attention: DocumentAttention | None,
        device: Device,
        replanned: Replanned,
        **kwargs: Any,
    ) -> None:
        self.plan = plan
        super().__init__(*args, data_collator=collate, **kwargs)
        self._attention, self._device, self._replanned = attention, device, replanned
        self._multiple = BLOCK if flex_is_installed() else 1
        self._layers = [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]
        self._follow(plan)

    def _follow(self, plan: Plan) -> None:
        self.plan = plan
        hold_experts_dequantized(plan.keep_dequantized)

    def totals(self) -> dict[str, Any]:
        return {**super().totals(), "plan": self.plan.key}

    def restore_totals(self, kept: dict[str, Any]) -> None:
        """A plan that became smaller stays so, where this run's plan would become it."""
        super().restore_totals(kept)
        smaller: Plan | None = self.plan
        while smaller is not None and smaller.key != kept["plan"]:
            smaller = smaller.smaller()
        if smaller is not None:
            self._follow(smaller)

    @property
    def evaluated_at_once(self) -> int:
        """Held-out samples that fit at once into the memory that training fits in, whatever their length."""
        if self.plan.rows == "as configured":
            return self.plan.rows_at_once
        return max(1, self.plan.row_tokens // int(self.args.max_length))

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], None]:
        """The samples of a step; what is counted of them, `training_step` counts."""
        return list(islice(epoch_iterator, num_batches)), None

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    def training_step(self, model: Any, inputs: Step, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward over all samples of the step: the gradients, and the step's mean loss in nats a token.

        Runs the memory out, nothing has happened yet but gradients, which start anew with the next smaller plan.
        """
        trained = torch.tensor(sum(document.trained for document in inputs.documents), device=self.args.device)
        while (loss := self._all_of(model, divide(inputs, self.plan, self._multiple), trained)) is None:
            self._shrink(model)
        self.state.num_input_tokens_seen += sum(map(len, inputs.documents))
        return loss

    def _all_of(self, model: Any, micro_batches: list[MicroBatch], trained: torch.Tensor) -> torch.Tensor | None:
        """The sum of the micro-batches' losses; None when memory ran out and there is a smaller plan."""
        # One without a trained token has neither loss nor gradient.
        wanted = [each for each in micro_batches if bool((each.labels[:, 1:] != IGNORED).any())]
        wanted = wanted or micro_batches[:1]
        # What is a mean over each micro-batch, as the experts' balance is, is divided by their number.
        self.current_gradient_accumulation_steps = len(wanted)
        try:
            return torch.stack([self._one_of(model, each, trained) for each in wanted]).sum()
        except torch.OutOfMemoryError:
            if self.plan.smaller() is None:
                raise
        return None

    def _one_of(self, model: Any, micro_batch: MicroBatch, trained: torch.Tensor) -> torch.Tensor:
        self._recompute(self.plan.checkpointed(micro_batch.tokens))
        inputs = {"input_ids": micro_batch.ids.to(trained.device), "labels": micro_batch.labels.to(trained.device)}
        seen: AbstractContextManager[dict[str, torch.Tensor]]
        if micro_batch.documents is not None:
            assert self._attention is not None, "documents are packed where they can be kept apart"
            seen = self._attention.over(micro_batch.documents.to(trained.device))
        else:
            assert micro_batch.attention_mask is not None
            seen = nullcontext({"attention_mask": micro_batch.attention_mask.to(trained.device)})
        with seen as others:
            loss: torch.Tensor = super().training_step(model, {**inputs, **others}, trained)
        return loss

    def _recompute(self, number: int) -> None:
        """Have the first `number` layers recomputed in the backward pass, and no other; without a plan it stays as the
        model was loaded."""
        if self.args.gradient_checkpointing and self.plan.rows != "as configured":
            for index, layer in enumerate(self._layers):
                layer.gradient_checkpointing = index < number

    def _shrink(self, model: Any) -> None:
        model.zero_grad(set_to_none=True)
        release_cached_memory(self._device)
        smaller = self.plan.smaller()
        assert smaller is not None
        self._follow(smaller)
        self._replanned(smaller)
