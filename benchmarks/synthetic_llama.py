"""Write a model of Llama-3.2-3B's shape with random weights in 16 bits, and another model's tokenizer.

    python benchmarks/synthetic_llama.py --output /dev/shm/llama-3b --tokenizer TOKENIZER_FOLDER

Its vocabulary is the tokenizer's, rounded up to a multiple of 64; all else is of meta-llama/Llama-3.2-3B's config.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

VOCABULARY_MULTIPLE = 64


def llama_3b(vocabulary: int, layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
        tie_word_embeddings=True,
        dtype="bfloat16",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with a tokenizer")
    parser.add_argument("--layers", type=int, default=28, help="Llama-3.2-3B has 28")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="draws the weights")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    config = llama_3b(-(-len(tokenizer) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE, arguments.layers)
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(0)
    with torch.device(arguments.device):
        # Its constructor has no types (transformers 5.17.0).
        model: Any = cast(Any, LlamaForCausalLM)(config)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
