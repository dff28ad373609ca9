"""The export command on a tiny dense model, through its checkpoint."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptoss_ft import cli, job
from gptoss_ft.config import load_job_config
from gptoss_ft.errors import ExitCode
from gptoss_ft.reporting.only_writer import only_writer

JOB = """
model: {name: tiny/llama, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/finetome, max_samples: 24}
training: {max_steps: 2, per_device_train_batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 5e-3,
           warmup_steps: 1, optim: adamw_torch_fused, save_steps: 2, output_dir: run}
tracking: {report_to: none}
"""
RUN = Path("outputs/run")
STOCK = """
import sys
sys.modules["unsloth"] = sys.modules["unsloth_zoo"] = None
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1]), sys.argv[2])
assert not any(parameter.is_meta for parameter in adapted.parameters())
AutoTokenizer.from_pretrained(sys.argv[2])
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which a run has left outputs/run; the current folder of all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("here")
        patch.chdir(folder)
        Path("config.yaml").write_text(JOB)
        job.train(load_job_config(Path("config.yaml"), ()))
        yield folder


def export(*arguments: str) -> int:
    """The exit code of the command."""
    try:
        cli.app(["export", *arguments], prog_name="gptoss_ft")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_checkpoint_becomes_an_adapter_that_stock_libraries_load(
    here: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("--format", "portable-adapter", "--model", "checkpoint-2") == ExitCode.DONE
    said = capsys.readouterr().out
    assert "verification\n" in said
    assert "done: outputs/run/portable_adapter goes on the stock model" in said
    folder = RUN / "portable_adapter"
    assert json.loads((folder / "verification.json").read_text())["max_abs_logit_difference"] <= 1e-4
    assert {"adapter_config.json", "tokenizer.json", "job.yaml"} <= {file.name for file in folder.iterdir()}
    # The last checkpoint and final_model hold the same adapter.
    exported, final = (load_file(RUN / name / "adapter_model.safetensors") for name in (folder.name, "final_model"))
    assert exported.keys() == final.keys()
    assert all(torch.equal(exported[name], final[name]) for name in final)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny/llama"
    subprocess.run([sys.executable, "-c", STOCK, str(tiny_llama), str(folder)], check=True, capture_output=True)
    assert [path.name for path in RUN.iterdir() if path.name.startswith(".portable")] == [".portable_adapter.lock"]

    assert export("--format", "portable-adapter", "--model", "checkpoint-2") == ExitCode.DATA
    assert "portable_adapter is there already" in capsys.readouterr().err


def test_an_adapter_whose_answers_are_no_numbers_is_not_exported(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(RUN / "final_model", tmp_path / "broken"))
    weights = load_file(broken / "adapter_model.safetensors")
    weights[next(name for name in weights if "lora_B" in name)][0, 0] = float("nan")
    save_file(weights, broken / "adapter_model.safetensors", metadata={"format": "pt"})
    output = tmp_path / "exported" / "adapter"
    code = export("--format", "portable-adapter", "--model", str(broken), "--output", str(output))
    assert code == ExitCode.EXPORT
    assert "answers otherwise than the trained model: a logit differs by nan" in capsys.readouterr().err
    assert [path.name for path in output.parent.iterdir()] == [".adapter.lock"]


def test_two_exports_to_one_folder_do_not_mix(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "adapter"
    with only_writer(output):
        assert export("--format", "portable-adapter", "--output", str(output)) == ExitCode.DATA
    assert f"another process is writing to {output}" in " ".join(capsys.readouterr().err.split())


def test_4_bits_without_a_gpu_are_refused_before_anything_is_written(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "there" / "adapter"
    options = ("--output", str(output), "--set", "model.load_in_4bit=true")
    assert export("--format", "portable-adapter", *options) == ExitCode.CONFIG
    assert "4-bit weights need an NVIDIA GPU" in " ".join(capsys.readouterr().err.split())
    assert not output.parent.exists()


def test_a_merged_model_is_checked_and_an_adapter_is_not(
    here: Path, tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = Path(shutil.copytree(tiny_llama, tmp_path / "merged_model"))
    for loader, command in (("gguf", "python convert_hf_to_gguf.py"), ("vllm", "vllm serve")):
        assert export("--check", loader, "--model", str(merged)) == ExitCode.DONE
        assert command in capsys.readouterr().out
    (merged / "tokenizer.json").unlink()
    assert export("--check", "gguf", "--model", str(merged)) == ExitCode.EXPORT
    assert "tokenizer: tokenizer.json missing" in capsys.readouterr().err
    assert export("--check", "gguf", "--model", str(RUN / "final_model")) == ExitCode.CONFIG
    assert "is not a merged model, which is what llama.cpp and vLLM load" in capsys.readouterr().err


def test_what_is_no_adapter_or_in_no_run_is_refused(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("--format", "portable-adapter", "--model", "base") == ExitCode.CONFIG
    assert "tiny/llama is a whole model, without an adapter" in capsys.readouterr().err
    alone = Path(shutil.copytree(RUN / "final_model", tmp_path / "alone"))
    assert export("--format", "portable-adapter", "--model", str(alone)) == ExitCode.CONFIG
    assert "alone is in no run's folder" in capsys.readouterr().err
    assert export() == 2
    assert "give either --format or --check" in capsys.readouterr().err
