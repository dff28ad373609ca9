"""The stand-in for Llama-3.2-3B has its shape."""

import importlib
import sys
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
synthetic_llama = importlib.import_module("synthetic_llama")


def test_it_has_as_many_parameters_as_the_real_one() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(synthetic_llama.llama_3b(vocabulary=128_256, layers=28))
    # meta-llama/Llama-3.2-3B's model card on the hub.
    assert model.num_parameters() == 3_212_749_824
