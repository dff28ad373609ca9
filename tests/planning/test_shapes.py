"""Counts from config.json alone, against the modules that transformers makes of the same config."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from gptoss_ft import tiny
from gptoss_ft.config import JobConfig
from gptoss_ft.errors import DataError, HubError
from gptoss_ft.planning.adapter_size import trained_values
from gptoss_ft.planning.shapes import ModelShapes, held_bytes, read_shapes, shapes_of
from gptoss_ft.runtime import GIB, cache_folder

IN_16_BITS = JobConfig.model_validate({"model": {"load_in_4bit": False}})
GPT_OSS: dict[str, Any] = {
    "model_type": "gpt_oss", "num_hidden_layers": 24, "hidden_size": 2880, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "num_local_experts": 32,
    "num_experts_per_tok": 4, "vocab_size": 201088, "tie_word_embeddings": False, "sliding_window": 128,
    "attention_bias": True,
}  # fmt: skip
DENSE: dict[str, Any] = {
    "num_hidden_layers": 3, "hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 80, "vocab_size": 160,
}  # fmt: skip
CONFIGS = {
    "gpt-oss-20b": GPT_OSS,
    "gpt-oss-120b": {**GPT_OSS, "num_hidden_layers": 36, "num_local_experts": 128},
    "llama": {**DENSE, "model_type": "llama"},
    "llama with biases": {**DENSE, "model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama tied": {**DENSE, "model_type": "llama", "tie_word_embeddings": True},
    "mistral": {**DENSE, "model_type": "mistral", "head_dim": 16},
    "qwen2": {**DENSE, "model_type": "qwen2"},
    "qwen3": {**DENSE, "model_type": "qwen3", "head_dim": 16},
    "gemma": {**DENSE, "model_type": "gemma", "head_dim": 16},
    "gemma2": {**DENSE, "model_type": "gemma2", "head_dim": 16},
    "gemma3_text": {**DENSE, "model_type": "gemma3_text", "head_dim": 16},
}
KINDS = {
    "embed_tokens": "embedding", "self_attn.q_norm": "norms", "self_attn.k_norm": "norms", "self_attn": "attention",
    "router": "router", "mlp": "experts", "norm": "norms", "lm_head": "lm_head",
}  # fmt: skip


def known(config: dict[str, Any], job: JobConfig = IN_16_BITS) -> ModelShapes:
    shapes = shapes_of(config, job)
    assert shapes is not None
    return shapes


def quantized(skipped: list[str]) -> dict[str, Any]:
    return {**GPT_OSS, "quantization_config": {"quant_method": "bitsandbytes", "llm_int8_skip_modules": skipped}}


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_modules(name: str) -> None:
    config = CONFIGS[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    counted: Counter[str] = Counter(dict.fromkeys(("embedding", "attention", "experts", "router", "norms"), 0))
    counted["lm_head"] = 0
    for path, parameter in model.named_parameters():
        kind = next(kind for part, kind in KINDS.items() if part in path)
        counted[kind] += parameter.numel()
    assert known(config).parameters() == counted


def test_the_tiny_models_are_counted_as_their_files_are() -> None:
    for name in ("tiny/gpt-oss", "tiny/llama"):
        job = JobConfig.model_validate({"model": {"name": name, "load_in_4bit": False}})
        shapes = read_shapes(job, str(tiny.materialize(name, cache_folder())))
        folder = tiny.materialize(name, cache_folder())
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert shapes is not None
        assert sum(shapes.parameters().values()) == model.num_parameters()
        # bfloat16, as they are stored
        assert shapes.weight_bytes() == 2 * model.num_parameters()


@pytest.mark.parametrize(
    ("lora", "trained"),
    [
        ({}, 92_454_912),  # counted on a GPU, with an adapter on every expert
        ({"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}, 3_981_312),
        (
            {
                "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
                "target_parameters": [
                    f"{layer}.mlp.experts.{name}" for layer in (7, 15, 23) for name in ("gate_up_proj", "down_proj")
                ],
            },
            15_040_512,  # counted on a GPU: OpenAI's cookbook
        ),
        ({"target_modules": ["down_proj"]}, 24 * 32 * 8 * (2880 + 2880)),
        ({"target_modules": ["q_proj"], "use_dora": True}, 24 * (8 * (2880 + 4096) + 4096)),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, 24 * 8 * (2880 + 4096) + 201088 * 2880),
    ],
)
def test_trained_values_of_gpt_oss_20b(lora: dict[str, Any], trained: int) -> None:
    job = JobConfig.model_validate({"lora": lora})
    assert trained_values(job.lora, known(GPT_OSS, job)) == trained


def test_trained_values_of_a_dense_model_are_pefts() -> None:
    from peft import LoraConfig, get_peft_model

    config = CONFIGS["llama"]
    job = JobConfig.model_validate({"lora": {"r": 4}})
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=job.lora.target_modules))
    assert trained_values(job.lora, known(config, job)) == peft.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(
    ("config", "in_4bit", "gib"),
    [
        # As loaded on a GPU: docs/measurements.md, "Making the checkpoint".
        (quantized(["router", "embed_tokens", "lm_head"]), True, 11.66),
        (quantized(["router", "embed_tokens", "lm_head", "self_attn"]), True, 12.54),
        (GPT_OSS, False, 2 * 20_914_757_184 / GIB),
    ],
)
def test_bytes_of_gpt_oss_20b(config: dict[str, Any], in_4bit: bool, gib: float) -> None:
    job = JobConfig.model_validate({"model": {"load_in_4bit": in_4bit}})
    assert known(config, job).weight_bytes() / GIB == pytest.approx(gib, abs=0.006)


def test_nf4_bytes_are_those_of_bitsandbytes() -> None:
    from bitsandbytes.functional import quantize_4bit

    values = 256 * 512
    packed, state = quantize_4bit(torch.zeros(256, 512), quant_type="nf4", compress_statistics=True)
    held = packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert held == held_bytes(values, "nf4", known(GPT_OSS))


def test_what_is_held_in_which_bits() -> None:
    job = JobConfig()
    attention_whole = known(quantized(["lm_head", "self_attn"]), job)
    assert set(attention_whole.attention_held) == {"whole"}
    assert set(attention_whole.experts_held) == {"nf4"}
    one_layer = known(quantized(["lm_head", "model.layers.3.mlp"]), job)
    assert [layer for layer, held in enumerate(one_layer.experts_held) if held == "whole"] == [3]
    assert set(one_layer.attention_held) == {"nf4"}
    packed = {**GPT_OSS, "quantization_config": {"quant_method": "mxfp4"}}
    assert set(known(packed, job).experts_held) == {"mxfp4"}
    assert set(known(packed, job).attention_held) == {"whole"}
    assert set(known(packed).experts_held) == {"whole"}
    # One layer's experts as bfloat16: 32 × 3 × 2880² values.
    assert attention_whole.dequantized_layer_bytes() == 2 * 32 * 3 * 2880**2
    assert known(GPT_OSS).dequantized_layer_bytes() == 0
    assert known(CONFIGS["llama"], job).dequantized_at_once_bytes() == 2 * 48 * 80


def test_active_parameters_are_the_published_3_6_billion() -> None:
    assert known(GPT_OSS).active_parameters() == pytest.approx(3.6e9, rel=0.01)


def test_an_unknown_architecture_has_no_shapes() -> None:
    assert shapes_of({"model_type": "mamba"}, JobConfig()) is None


def test_a_broken_or_absent_config_is_a_users_error(tmp_path: Path) -> None:
    for content in ("{", "[]", '{"model_type": "llama"}', '{"model_type": "llama", "num_hidden_layers": "many"}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(DataError, match=r"no config\.json that can be read"):
            read_shapes(JobConfig(), str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(DataError, match=r"no config\.json that can be read: FileNotFoundError"):
        read_shapes(JobConfig(), str(tmp_path))
    with pytest.raises(HubError, match="not in the local cache"):
        read_shapes(JobConfig(), "nobody/nothing")


def test_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GPT_OSS))
    assert read_shapes(IN_16_BITS, str(tmp_path)) == known(GPT_OSS)
