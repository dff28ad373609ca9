"""TRL's SFTTrainer, but for how an optimizer step is computed: as the plan says; not at all where it would not be
finite, or would not end in time.

The data loader yields all samples of a step at once, so that its order, the seeds and the schedule know nothing of
micro-batches. Imported after Unsloth, which replaces TRL's classes.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from gptoss_ft.config import TrainingSection
from gptoss_ft.data.rendering import IGNORED
from gptoss_ft.model.attention import BLOCK, DocumentAttention, flex_is_installed
from gptoss_ft.planning.plan import Plan
from gptoss_ft.runtime import Device, hold_experts_dequantized, is_out_of_memory, release_cached_memory
from gptoss_ft.training.counting_trainer import CountingTrainer
from gptoss_ft.training.finite_steps import FiniteSteps
from gptoss_ft.training.interruption import StepAbandoned, StopRequest
from gptoss_ft.training.micro_batches import MicroBatch, Step, collate, divide
from gptoss_ft.training.out_of_memory import forget_what_ran_out
from gptoss_ft.training.random_state import random_state, restore_random_state

# Called when memory has run out and the step is computed again: the plan from now on.
Replanned = Callable[[Plan], None]


@dataclass(frozen=True)
class Computed:
    """A step's micro-batches and the loss of each, float32 [micro-batches], on the device."""

    micro_batches: list[MicroBatch]
    losses: torch.Tensor


class PlannedTrainer(CountingTrainer):
    """`attention`: how documents in one row are kept apart; without it no plan may have packed rows. `training` says
    when a step is given up (`stop`) and what becomes of one that is not finite (`finite`), whose samples are `named`.
    """

    def __init__(
        self,
        *args: Any,
        plan: Plan,
        attention: DocumentAttention | None,
        device: Device,
        replanned: Replanned,
        training: TrainingSection,
        named: Callable[[Sequence[int]], str],
        **kwargs: Any,
    ) -> None:
        self.plan = plan
        super().__init__(*args, data_collator=collate, **kwargs)
        self._attention, self._device, self._replanned = attention, device, replanned
        self.stop = StopRequest(self.checkpoints, training)
        self.finite = FiniteSteps(training, named)
        self._multiple = BLOCK if flex_is_installed() else 1
        self._layers = [module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)]
        # As the last finished step left the generators.
        self._generators = random_state()
        self._follow(plan)

    def _follow(self, plan: Plan) -> None:
        self.plan = plan
        if plan.rows != "as configured":
            hold_experts_dequantized(plan.keep_dequantized)

    def totals(self) -> dict[str, Any]:
        return {**super().totals(), "skipped": self.finite.skipped, "plan": self.plan.key}

    def restore_totals(self, kept: dict[str, Any]) -> None:
        """A plan that became smaller stays so, where this run's plan would become it."""
        super().restore_totals(kept)
        self.finite.skipped = kept["skipped"]
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

        Runs the memory out, nothing has happened yet but gradients, which start anew with the next smaller plan. So it
        is with a step that is given up: `StepAbandoned`, all as the last step has left it.
        """
        trained = torch.tensor(sum(document.trained for document in inputs.documents), device=self.args.device)
        self._count()
        with self._undone_where_given_up(model):
            while (computed := self._all_of(model, divide(inputs, self.plan, self._multiple), trained)) is None:
                self._shrink(model)
        self.state.num_input_tokens_seen += sum(map(len, inputs.documents))
        self._computed = computed
        return computed.losses.sum()

    @contextmanager
    def _undone_where_given_up(self, model: Any) -> Iterator[None]:
        try:
            yield
        except StepAbandoned:
            self._put_back(model)
            self.state.num_input_tokens_seen = self._counted.seen
            restore_random_state(self._generators)
            raise

    def _all_of(self, model: Any, micro_batches: list[MicroBatch], trained: torch.Tensor) -> Computed | None:
        """The micro-batches' losses; None when memory ran out and there is a smaller plan."""
        # One without a trained token has neither loss nor gradient.
        wanted = [each for each in micro_batches if bool((each.labels[:, 1:] != IGNORED).any())]
        wanted = wanted or micro_batches[:1]
        # What is a mean over each micro-batch, as the experts' balance is, is divided by their number.
        self.current_gradient_accumulation_steps = len(wanted)
        began, losses = time.monotonic(), []
        try:
            for index, micro_batch in enumerate(wanted):
                if self.stop.is_wanted:
                    self._give_up_unless_it_fits(began, wanted, index)
                losses.append(self._one_of(model, micro_batch, trained))
            return Computed(wanted, torch.stack([loss.float() for loss in losses]))
        except RuntimeError as error:
            if not is_out_of_memory(error) or self.plan.smaller() is None:
                raise
        return None

    def _give_up_unless_it_fits(self, began: float, micro_batches: list[MicroBatch], done: int) -> None:
        """The rest of the step is expected to go on as fast as it went since `began`."""
        if torch.cuda.is_available():
            # What was asked for is not yet done.
            torch.cuda.synchronize()
        tokens = [micro_batch.tokens for micro_batch in micro_batches]
        per_token = (time.monotonic() - began) / sum(tokens[:done]) if done else self.stop.step_seconds / sum(tokens)
        self.stop.give_up_unless_it_fits(per_token * sum(tokens[done:]))

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
        self._put_back(model)
        forget_what_ran_out()
        release_cached_memory(self._device)
        smaller = self.plan.smaller()
        assert smaller is not None
        self._follow(smaller)
        self._replanned(smaller)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> torch.Tensor:
        """What transformers calls last before the optimizer's step. Without gradients that leaves all as it is."""
        norm: torch.Tensor = super()._get_grad_norm(model, grad_norm=grad_norm)
        computed = self._computed
        # One wait for the device; the loss of each micro-batch is looked at where it matters.
        loss, length = torch.stack([computed.losses.sum(), norm.float().to(computed.losses)]).tolist()
        if self.stop.is_wanted:
            # The optimizer's step takes no time, but an evaluation may follow it.
            with self._undone_where_given_up(model):
                self.stop.give_up_unless_it_fits(0.0)
        # In float16 the loss scaler starts too high and skips the steps whose gradient overflows.
        if math.isfinite(loss) and (math.isfinite(length) or self.args.fp16):
            return norm
        wrong = [not math.isfinite(own) for own in computed.losses.tolist()]
        suspects = [
            each for each, is_wrong in zip(computed.micro_batches, wrong, strict=True) if is_wrong or not any(wrong)
        ]
        samples = [sample for each in suspects for sample in each.samples]
        self.finite.leave_out(self.state.global_step + 1, loss, length, samples)
        self._left_out += 1
        self._put_back(model)
        return norm

    def save_last_step(self) -> None:
        """After a step that was given up: the checkpoint of the one before, and the end of the run for trackers."""
        if self.state.global_step:
            self._save_checkpoint(self.model)
        self.callback_handler.on_train_end(self.args, self.state, self.control)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        super()._maybe_log_save_evaluate(*args, **kwargs)
        # Here, for the next epoch's order is drawn before its first step begins.
        self._generators = random_state()
