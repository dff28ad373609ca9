"""The tiny gpt-oss as a GPU holds it in 4 bits, each expert two linear layers of its own; here in float32."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel
from unsloth_zoo.temporary_patches.gpt_oss import GptOssExpertsBnb4bit, GptOssTopKRouter

TARGETS = r".*\.(?:[qkvo]_proj|(?:gate_up|down)_projs\.\d+)"


def split_model(folder: Path) -> PreTrainedModel:
    """The model in `folder` with Unsloth's classes for split experts, which hold the same weights."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            stock, router = layer.mlp.experts, layer.mlp.router
            layer.mlp.experts = experts = GptOssExpertsBnb4bit(model.config).float()
            for number in range(experts.num_experts):
                experts.gate_up_projs[number].weight.copy_(stock.gate_up_proj[number].T)
                experts.gate_up_projs[number].bias.copy_(stock.gate_up_proj_bias[number])
                experts.down_projs[number].weight.copy_(stock.down_proj[number].T)
                experts.down_projs[number].bias.copy_(stock.down_proj_bias[number])
            layer.mlp.router = GptOssTopKRouter(model.config).float()
            layer.mlp.router.linear.weight.copy_(router.weight)
            layer.mlp.router.linear.bias.copy_(router.bias)
    return model.eval()


def split_adapter_model(folder: Path, targets: str = TARGETS, **options: object) -> PeftModel:
    """`split_model` with a random adapter on what `targets` matches; its names are those of a 4-bit run on a GPU."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **options)
    model = get_peft_model(split_model(folder), config)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    return model.eval()
