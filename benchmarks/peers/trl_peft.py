"""Plain TRL + PEFT in bfloat16, as OpenAI's cookbook fine-tunes gpt-oss with transformers; no Unsloth.

python -m peers.trl_peft TASK.json STEPS.json
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from peers.measure import ALPHA, ATTENTION, LEARNING_RATE, RANK, SEED, Task, hold_to_cap, make_clock, read_task
from peers.rows import Rows


def load(task: Task) -> Any:
    """The 16-bit model (float32 on a CPU) with fused experts."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    dtype = torch.bfloat16 if task.on_gpu else torch.float32
    # The cookbook's: attention with sinks has no kernel in torch's own scaled_dot_product_attention.
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "eager"}
    if not task.weights_at_random:
        return AutoModelForCausalLM.from_pretrained(task.model, use_cache=False, device_map=task.device, **options)
    config = AutoConfig.from_pretrained(task.model)
    config.use_cache = False
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    torch.manual_seed(SEED)
    auto: Any = AutoModelForCausalLM
    with torch.device(task.device):
        return auto.from_config(config, **options)


def make_trainer(model: Any, rows: Rows, task: Task, folder: Path) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, Trainer
    from trl import SFTConfig, SFTTrainer

    lora = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        bias="none",
        target_modules=ATTENTION,
        target_parameters=task.fused_targets(),
        task_type="CAUSAL_LM",
    )
    arguments = SFTConfig(
        per_device_train_batch_size=task.micro_batch,
        gradient_accumulation_steps=task.effective_batch // task.micro_batch,
        warmup_steps=5,
        max_steps=len(rows.lengths) // task.effective_batch,
        learning_rate=LEARNING_RATE,
        logging_steps=1,
        weight_decay=0.001,
        lr_scheduler_type="linear",
        gradient_checkpointing=task.recompute,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        # As in ours: TRL's default adds the router's balance, a mean over each micro-batch, to the loss.
        router_aux_loss_coef=0.0,
        bf16=task.on_gpu,
        use_cpu=not task.on_gpu,
        seed=SEED,
        output_dir=str(folder),
        report_to="none",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        max_length=task.longest,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer: Any = SFTTrainer(
        model=get_peft_model(model, lora),
        args=arguments,
        train_dataset=rows.dataset(),
        processing_class=AutoTokenizer.from_pretrained(task.model),
    )
    if not task.on_gpu:
        # TRL 1.15.0 computes its loss in a Triton kernel; the model's own is the same number.
        trainer.compute_loss = partial(Trainer.compute_loss, trainer)
    return trainer


def main() -> None:
    task, output = read_task()
    hold_to_cap(task.cap_gib)
    rows = Rows.load(Path(task.rows))
    trainer = make_trainer(load(task), rows, task, output.parent)
    trainer.add_callback(make_clock(rows.tokens_of_steps(task.effective_batch), output))
    trainer.train()


if __name__ == "__main__":
    main()
