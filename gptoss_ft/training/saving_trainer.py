"""TRL's SFTTrainer, but for what it keeps and how it goes on: checkpoints that are whole, resumed to the bit.

Imported after Unsloth, which replaces TRL's classes.
"""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors import safe_open
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from trl import SFTTrainer

from gptoss_ft.errors import OutputError
from gptoss_ft.reporting.checkpoint_folder import CHECKPOINT
from gptoss_ft.reporting.trainer_state import EARLY_STOP, TRAINER_STATE
from gptoss_ft.training.checkpoints import (
    ADAPTER,
    RANDOM_STATE,
    CheckpointWriter,
    HostCopy,
    Snapshot,
)
from gptoss_ft.training.own_settings import own_settings, put_back
from gptoss_ft.training.paged_optimizer import page_again
from gptoss_ft.training.random_state import random_state, restore_random_state

# What a module of Unsloth's has whose weight is a part of a stack (unsloth_zoo 2026.10.9).
STACKED = "_unsloth_stack_owner"

# TRL's class, or what Unsloth has put in its place, which has no types.
_SFTTrainer: Any = SFTTrainer


class SavingTrainer(_SFTTrainer):  # type: ignore[misc]  # a base class without types
    """Checkpoints go to `args.output_dir`; `limit` of them stay (None: all), the newest and the best always.

    Saving stops training for the copy out of GPU memory; `checkpoints.wait()` waits for the rest.
    """

    def __init__(self, *args: Any, limit: int | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._folder = Path(self.args.output_dir)
        self._host = HostCopy()
        self.checkpoints = CheckpointWriter(self._folder, limit)
        # Adam's two moments beside each weight, or less.
        self.checkpoints.expect(3 * sum(own.nbytes for own in self.model.parameters() if own.requires_grad))
        # What transformers sets when training begins, and forgets when it is resumed (5.17.0).
        self._tr_loss = torch.tensor(0.0, device=self.args.device)
        self._total_loss_scalar, self._globalstep_last_logged = 0.0, 0
        self.add_callback(_RunTotals(self))
        self.add_callback(_FailedWrites(self.checkpoints))

    def totals(self) -> dict[str, Any]:
        """What a resumed run must know beside `TrainerState`, as JSON: the losses since the last log, and all of them;
        TRL's counts."""
        return {
            # A float32 is exact in JSON's float64.
            "loss_since_log": float(self._tr_loss),
            "loss_until_log": float(self._total_loss_scalar),
            "last_logged": int(self._globalstep_last_logged),
            "trl_tokens": self._total_train_tokens,
            "trl_metrics": dict(self._metrics["train"]),
        }

    def restore_totals(self, kept: dict[str, Any]) -> None:
        self._tr_loss.fill_(kept["loss_since_log"])
        self._total_loss_scalar = kept["loss_until_log"]
        self._globalstep_last_logged = kept["last_logged"]
        self._total_train_tokens = kept["trl_tokens"]
        self._metrics["train"].update(kept["trl_metrics"])

    def load_totals(self, checkpoint: Path) -> None:
        """What a run from this checkpoint would go on with, where there is no step left. `OutputError` as a run has."""
        self._refuse_other_state(checkpoint)
        state = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
        self.restore_totals(state["stateful_callbacks"][_RunTotals.__name__]["attributes"])

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """Begin to write the checkpoint of this step, unless it is there. `DiskError` where there is no room, also
        for the one before."""
        self.checkpoints.wait()
        step = self.state.global_step
        if self.state.best_global_step == step or self.checkpoints.has(self.state.best_global_step or -1):
            self.state.best_model_checkpoint = str(self._folder / f"{CHECKPOINT}{self.state.best_global_step}")
        if not self.checkpoints.has(step):
            self.checkpoints.write(self._snapshot())

    def _snapshot(self) -> Snapshot:
        tensors = {
            "optimizer.pt": self.optimizer.state_dict(),
            "scheduler.pt": copy.deepcopy(self.lr_scheduler.state_dict()),
            RANDOM_STATE: random_state(),
        }
        if self.accelerator.scaler is not None:
            tensors["scaler.pt"] = self.accelerator.scaler.state_dict()
        copied = self._host.of({"adapter": self._adapter(), "tensors": tensors})
        best = self.state.best_model_checkpoint
        return Snapshot(
            step=self.state.global_step,
            adapter=copied["adapter"],
            adapter_config=self._adapter_config(),
            tensors=copied["tensors"],
            texts={TRAINER_STATE: self._state_as_json()},
            tokenizer=self.processing_class,
            best=Path(best) if best else None,
        )

    def _adapter(self) -> dict[str, torch.Tensor]:
        """What is trained, by the names that PEFT saves it under."""
        # Each module's own state, for Unsloth's stack of all experts' adapters gives each expert's by a hook there; not
        # the model's, for which quantized weights are packed.
        trained = {
            key: value
            for name, module in self.model.named_modules(remove_duplicate=False)
            if any(own is not None and own.requires_grad for own in module._parameters.values())
            or hasattr(module, STACKED)
            for key, value in module.state_dict(prefix=f"{name}.", keep_vars=True).items()
            if value.requires_grad
        }
        # Told to look for itself whether the embedding was resized, PEFT asks the hub.
        return dict(get_peft_model_state_dict(self.model, state_dict=trained, save_embedding_layers=False))

    def _adapter_config(self) -> Any:
        config = copy.copy(self.model.peft_config["default"])
        config.inference_mode = True
        if config.target_parameters and isinstance(config.auto_mapping, dict):
            # Unsloth's mark of a file of its own; without the other it takes the columns of B for its old order.
            config.auto_mapping = {**config.auto_mapping, "lora_B_layout": "rank_major"}
        return config

    def _init_training_state(self, *args: Any) -> Any:
        """As transformers does, but by names: the best checkpoint is one of this folder, wherever it was when it was
        named."""
        begun = super()._init_training_state(*args)
        if self.state.best_global_step is not None:
            best = self._folder / f"{CHECKPOINT}{self.state.best_global_step}"
            self.state.best_model_checkpoint = str(best) if best.is_dir() else None
        return begun

    def _refuse_other_state(self, checkpoint: Path) -> None:
        """`OutputError` where the checkpoint lacks what transformers or a callback goes on from."""
        kept = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
        wrong = [f"has {key}" for key in kept.keys() - {field.name for field in dataclasses.fields(TrainerState)}]
        states = kept.get("stateful_callbacks", {})
        for callback in self.callback_handler.callbacks:
            name = type(callback).__name__
            # Evaluation may begin in mid-run.
            if isinstance(callback, ExportableState) and (name != EARLY_STOP or name in states):
                there = states.get(name, {}).get("attributes", {})
                wrong += [f"lacks {name}.{key}" for key in callback.state()["attributes"].keys() - there.keys()]
        if wrong:
            raise OutputError(
                f"{checkpoint} was written by another version: its {TRAINER_STATE} {min(wrong)}",
                "Continue with the version that wrote it, or pass --restart to keep the folder aside and train again.",
                "training.output_dir",
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """`OutputError` where the checkpoint's state is of another version, or its adapter not of this model: PEFT
        would leave out what it lacks."""
        self._refuse_other_state(Path(resume_from_checkpoint))
        with safe_open(Path(resume_from_checkpoint) / ADAPTER, framework="pt") as file:
            there = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  # no mapping
        own = {key: tuple(tensor.shape) for key, tensor in self._adapter().items()}
        if other := sorted(key for key in own.keys() | there.keys() if own.get(key) != there.get(key)):
            raise OutputError(
                f"{resume_from_checkpoint} holds another adapter than the one that is trained: {other[0]}",
                "Pass --restart to keep the folder aside and train again.",
                "training.output_dir",
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _state_as_json(self) -> str:
        """trainer_state.json, as transformers writes and reads it."""
        for callback in (*self.callback_handler.callbacks, self.control):
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks[type(callback).__name__] = callback.state()
        return json.dumps(dataclasses.asdict(self.state), indent=2, sort_keys=True) + "\n"

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            settings = own_settings(self.lr_scheduler)
            super()._load_optimizer_and_scheduler(checkpoint)
            put_back(self.lr_scheduler, settings)
            page_again(getattr(self.optimizer, "optimizer", self.optimizer))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """A run in float16 may be continued in bfloat16, which has no scaler."""
        if self.accelerator.scaler is not None:
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            restore_random_state(torch.load(Path(checkpoint) / RANDOM_STATE, map_location="cpu", weights_only=True))


class _RunTotals(TrainerCallback, ExportableState):
    """Keeps the trainer's totals in trainer_state.json, and gives them back."""

    def __init__(self, trainer: SavingTrainer) -> None:
        self._trainer = trainer

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": self._trainer.totals()}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:
            states: Any = state.stateful_callbacks
            self._trainer.restore_totals(states[type(self).__name__]["attributes"])
            # The run before may have logged, evaluated or saved at other steps.
            self._trainer.state.compute_steps(args, state.max_steps)


class _FailedWrites(TrainerCallback):
    """Ends the run before the next optimizer step where a checkpoint could not be written: steps would be lost."""

    def __init__(self, checkpoints: CheckpointWriter) -> None:
        self._checkpoints = checkpoints

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._checkpoints.check()
