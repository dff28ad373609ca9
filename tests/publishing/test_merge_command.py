"""The command on a run of the tiny model: trained, merged, verified, and what it says of the losses."""

import json
import re
import shutil
from pathlib import Path

import pytest

from gptoss_ft import job
from gptoss_ft.config import load_job_config
from gptoss_ft.errors import DataError, ExportError, OutputError, SettingError
from gptoss_ft.merging.base_choice import choose_base, compute_dtype
from gptoss_ft.publishing import merge_command
from gptoss_ft.publishing.merge_command import merge_adapter
from gptoss_ft.reporting.console import make_console
from gptoss_ft.runtime import Device
from gptoss_ft.subject import find_subject

JOB = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 24, eval_fraction: 0.2}
training: {max_steps: 4, per_device_train_batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 5e-3,
           warmup_steps: 1, optim: adamw_torch_fused, save_steps: 4, output_dir: run}
tracking: {report_to: none}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "job.yaml").write_text(JOB)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("RUN_EVALUATION", "false")
        job.train(load_job_config(Path("job.yaml"), ()))
    return folder / "outputs/run"


def test_merge_writes_a_verified_model_and_compares_the_losses(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = merge_adapter(find_subject(str(trained / "final_model"), None, ()), "trained", None, None, False)
    assert result.folder == trained / "merged_model"
    assert {path.name for path in result.folder.iterdir()} >= {
        "chat_template.jinja", "config.json", "generation_config.json", "job.yaml", "model.safetensors",
        "tokenizer.json", "verification.json",
    }  # fmt: skip
    assert json.loads((result.folder / "verification.json").read_text())["max_abs_logit_difference"] <= 1e-4
    assert json.loads((result.folder / "config.json").read_text())["dtype"] == "float32"
    assert (result.folder / "job.yaml").read_bytes() == (trained / "job.yaml").read_bytes()
    said = capsys.readouterr().out
    assert "which it was trained on" in said
    losses = re.search(r"loss on held-out rows +([\d.]+) of the adapter .*, ([\d.]+) of the merged model", said)
    assert losses is not None
    assert float(losses[1]) == pytest.approx(float(losses[2]), abs=1e-4)
    assert find_subject(str(result.folder), None, ()).kind == "merged"
    with pytest.raises(OutputError, match="merged_model is there already"):
        merge_adapter(find_subject(str(trained / "final_model"), None, ()), "trained", None, None, False)
    with pytest.raises(SettingError, match="is a whole model, without an adapter"):
        merge_adapter(find_subject(str(result.folder), None, ()), "trained", None, None, False)


def test_a_merge_that_answers_otherwise_leaves_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ExportError("it answers otherwise")

    monkeypatch.setattr(merge_command, "verify", refuse)
    subject = find_subject(str(trained / "checkpoint-4"), None, ())
    with pytest.raises(ExportError, match="it answers otherwise"):
        merge_adapter(subject, "trained", tmp_path / "merged", "bfloat16", False)
    assert [path.name for path in tmp_path.iterdir()] == [".merged.lock"]


def test_a_place_that_cannot_be_written_is_told_before_anything_else(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OutputError, match=r"/proc/merged cannot be written: Permission denied"):
        merge_adapter(
            find_subject(str(trained / "final_model"), None, ()), "trained", Path("/proc/merged"), None, False
        )
    assert capsys.readouterr().out == ""


def test_what_cannot_be_verified_or_read_is_refused_before_anything_is_written(trained: Path, tmp_path: Path) -> None:
    in_4bit = find_subject(str(trained / "final_model"), None, ["model.load_in_4bit=true"])
    with pytest.raises(SettingError, match=r"cannot be loaded here: 4-bit weights need an NVIDIA GPU"):
        merge_adapter(in_4bit, "trained", tmp_path / "there/merged", None, False)
    adapter = Path(shutil.copytree(trained / "final_model", tmp_path / "adapter"))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(DataError, match=r"holds its weights as adapter_model.bin") as raised:
        merge_adapter(find_subject(str(adapter), None, ()), "trained", tmp_path / "there/merged", None, False)
    assert "export --format portable-adapter" in raised.value.cure
    assert not (tmp_path / "there").exists()


def test_the_published_weights_are_said_to_need_room(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(merge_command, "verify", lambda *_, **__: None)
    monkeypatch.setenv("RUN_EVALUATION", "false")
    for base, said in (("trained", False), ("original", True)):
        merge_adapter(find_subject(str(trained / "final_model"), None, ()), base, tmp_path / base, None, False)
        assert ("loads the published 16-bit model through Unsloth" in " ".join(capsys.readouterr().out.split())) == said


def test_an_adapter_outside_a_run_needs_an_output(trained: Path, tmp_path: Path) -> None:
    (trained / "final_model").rename(tmp_path / "adapter")
    try:
        with pytest.raises(SettingError, match="is in no run's folder"):
            merge_adapter(find_subject(str(tmp_path / "adapter"), None, ()), "trained", None, None, False)
    finally:
        (tmp_path / "adapter").rename(trained / "final_model")


def test_the_base_is_what_the_run_had_in_memory(
    trained: Path, tiny_llama: Path, tiny_gpt_oss: Path, tmp_path: Path, device: Device
) -> None:
    console = make_console()
    model = find_subject(str(trained / "final_model"), None, ()).job.model
    section = model.model_copy(update={"name": str(tiny_llama), "load_in_4bit": True, "dtype": "auto"})
    # No manifest: what the config says.
    chosen = choose_base(section, tmp_path / "adapter", "trained", device, console)
    assert chosen.folder == tiny_llama
    assert chosen.quantized_as == compute_dtype(section, device)
    # The manifest of the run says that the model was not in 4 bits.
    assert choose_base(section, trained / "final_model", "trained", device, console).quantized_as is None
    original = choose_base(section, tmp_path / "adapter", "original", device, console)
    assert original.quantized_as is None
    assert original.section.load_in_4bit is False
    assert original.words == f"{tiny_llama}, as it was published"


def test_a_quantized_folder_has_no_known_original(
    trained: Path, tiny_llama: Path, tmp_path: Path, device: Device
) -> None:
    config = json.loads((tiny_llama / "config.json").read_text())
    folder = tmp_path / "quantized"
    folder.mkdir()
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    model = find_subject(str(trained / "final_model"), None, ()).job.model.model_copy(update={"name": str(folder)})
    with pytest.raises(SettingError, match=r"is quantized itself \(bitsandbytes\)"):
        choose_base(model, tmp_path / "adapter", "original", device, make_console())
    chosen = choose_base(model, tmp_path / "adapter", "trained", device, make_console())
    assert chosen.words.endswith("dequantized from bitsandbytes")
