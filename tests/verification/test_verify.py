"""Verification of exports: the trained model answers once for this file, each test asks an exported one."""

import errno
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gptoss_ft import job
from gptoss_ft.config import load_job_config, write_job_file
from gptoss_ft.errors import ExitCode, ExportError, MachineError
from gptoss_ft.reporting.console import make_console
from gptoss_ft.runtime import fresh_environment
from gptoss_ft.subject import Subject, find_subject
from gptoss_ft.verification import probe
from gptoss_ft.verification.logit_comparison import compare
from gptoss_ft.verification.prompts import BUILT_IN, make_prompts
from gptoss_ft.verification.verify import SAME_SUMS, Tolerance, Verification, read_found, rounded, run_side, verify

JOB = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 24, eval_fraction: 0.25}
training: {max_steps: 4, per_device_train_batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 5e-3,
           warmup_steps: 1, optim: adamw_torch_fused, save_steps: 4, output_dir: run}
tracking: {report_to: none}
"""
ADAPTER = "adapter_model.safetensors"
STOCK = """
import sys
sys.modules["unsloth"] = sys.modules["unsloth_zoo"] = None
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, merged = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(merged)
AutoTokenizer.from_pretrained(adapter).save_pretrained(merged)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A trained adapter, on experts too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        Path("job.yaml").write_text(JOB)
        result = job.train(load_job_config(Path("job.yaml"), ()))
        yield find_subject(str(result.final_model.absolute()), None, ())


@pytest.fixture(scope="module")
def answered(trained: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a probe whose trained side has answered."""
    folder = tmp_path_factory.mktemp("answered")
    write_job_file(trained.job, folder)
    request = {"kind": "adapter", "name": "x", "folder": str(trained.folder), "writes_adapter": False}
    (folder / probe.REQUEST).write_text(json.dumps(request))
    run_side("trained", folder)
    return folder


@pytest.fixture
def ask(answered: Path, tiny_gpt_oss: Path, tmp_path: Path) -> Callable[[str, Path], Verification]:
    """Ask an exported adapter or merged model what the trained one was asked."""

    def ask(kind: str, exported: Path) -> Verification:
        folder = tmp_path / "probe"
        shutil.copytree(answered, folder)
        (folder / probe.REQUEST).write_text(
            json.dumps({"as": kind, "exported": str(exported), "base": str(tiny_gpt_oss)})
        )
        run_side("exported", folder)
        return read_found(folder, 1.0)

    return ask


@pytest.fixture(scope="module")
def merged(trained: Subject, tiny_gpt_oss: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEFT's own merge of the adapter, in float32."""
    folder = tmp_path_factory.mktemp("merged") / "merged_model"
    subprocess.run([sys.executable, "-c", STOCK, str(tiny_gpt_oss), str(trained.folder), str(folder)], check=True)
    return folder


@pytest.fixture
def merged_copy(merged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(merged, tmp_path / "merged_model"))


@pytest.mark.usefixtures("cold_processes")
def test_a_good_adapter_is_verified_and_the_figures_are_kept(
    trained: Subject, tiny_gpt_oss: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained.folder is not None
    exported = Path(shutil.copytree(trained.folder, tmp_path / "adapter"))
    found = verify(trained, exported, "adapter", base=tiny_gpt_oss, console=make_console())
    said = capsys.readouterr().out
    assert re.search(r"largest difference +\S+ of a logit \(at most 0.0001\)", said)
    assert "loaded by stock libraries in a process without Unsloth" in said
    assert found.max_abs_logit_difference <= 1e-4
    assert found.top1_agreement == 1.0
    assert found.mean_kl < 1e-9
    assert found.tolerance == SAME_SUMS
    assert (found.trained, found.exported) == ("float32 on cpu", "float32 on cpu")
    # Of 24 rows a quarter is held out, some of them with more than one answer.
    assert 6 <= found.prompts <= 8
    assert found.tokens == 16 * found.prompts
    kept = json.loads((exported / "verification.json").read_text())
    assert kept["max_abs_logit_difference"] == found.max_abs_logit_difference
    assert kept["tolerance"]["max_abs_logit_difference"] == 1e-4


def test_a_tampered_adapter_is_not(ask: Callable[[str, Path], Verification], trained: Subject, tmp_path: Path) -> None:
    """One expert's B with its sign turned."""
    assert trained.folder is not None
    exported = Path(shutil.copytree(trained.folder, tmp_path / "adapter"))
    weights = load_file(exported / ADAPTER)
    name = next(name for name in sorted(weights) if name.endswith(".experts.lora_B.weight"))
    # Columns of a packed B go rank by rank: every fourth is the first of four experts'.
    weights[name][:, ::4] *= -1
    save_file(weights, exported / ADAPTER, metadata={"format": "pt"})
    found = ask("adapter", exported)
    assert found.max_abs_logit_difference > 1e-3
    assert found.beyond == [f"a logit differs by {found.max_abs_logit_difference:.3g} (at most 0.0001)"]


def test_a_merged_model_is_verified_in_its_own_dtype(
    ask: Callable[[str, Path], Verification], merged: Path, tmp_path: Path
) -> None:
    found = ask("merged", merged)
    assert found.max_abs_logit_difference <= 1e-4
    assert found.beyond == []


def test_a_merged_model_in_16_bits_is_held_to_the_answers(
    ask: Callable[[str, Path], Verification], merged_copy: Path
) -> None:
    weights = {name: tensor.bfloat16() for name, tensor in load_file(merged_copy / "model.safetensors").items()}
    save_file(weights, merged_copy / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((merged_copy / "config.json").read_text())
    (merged_copy / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    found = ask("merged", merged_copy)
    assert found.exported == "bfloat16 on cpu"
    assert found.adapter_kl is not None
    assert found.tolerance == rounded(found.adapter_kl)
    assert found.max_abs_logit_difference > 1e-4
    assert 0 < found.mean_kl < 0.004
    assert found.beyond == []


def test_a_model_without_its_adapter_is_beyond_rounding(
    ask: Callable[[str, Path], Verification], tiny_gpt_oss: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_gpt_oss, tmp_path / "base"))
    found = ask("merged", base)
    assert found.adapter_kl is not None
    assert found.exported == "bfloat16 on cpu"
    assert found.mean_kl == pytest.approx(found.adapter_kl, rel=0.05)
    assert found.mean_kl > found.adapter_kl / 4 > 0.002
    assert any("the mean KL divergence is" in words for words in found.beyond)


@pytest.mark.parametrize(
    ("adapter_kl", "limit"), [(None, 0.02), (0.0, 0.002), (0.02, 0.005), (1.0, 0.02)], ids=["no adapter", *"abc"]
)
def test_rounding_is_held_to_the_adapters_effect(adapter_kl: float | None, limit: float) -> None:
    assert rounded(adapter_kl) == Tolerance(mean_kl=limit, decided_agreement=0.98)


def test_a_leftover_quantization_config_is_refused(ask: Callable[[str, Path], Verification], merged_copy: Path) -> None:
    config = json.loads((merged_copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (merged_copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=r"the merged model: config\.json still holds quantization_config"):
        ask("merged", merged_copy)


def test_what_cannot_be_loaded_is_refused_with_the_reason(
    ask: Callable[[str, Path], Verification], merged_copy: Path
) -> None:
    (merged_copy / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ExportError, match="stock transformers does not load it: SafetensorError: "):
        ask("merged", merged_copy)


def test_a_child_hears_nothing_of_a_model_that_was_loaded_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSLOTH_MODEL_NAME", "x_load_in_4bit_")
    environment = fresh_environment()
    assert [name for name in environment if name.startswith("UNSLOTH_")] == []
    assert Path(environment["PYTHONPATH"].split(":")[0], "gptoss_ft").is_dir()


@pytest.mark.usefixtures("cold_processes")
def test_a_process_that_is_killed_is_the_machines_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(MachineError, match="trained model was ended by signal 9"):
        run_side("trained", tmp_path)


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "a machine with more memory"),
        (MemoryError(), "a machine with more memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "a machine with more memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "TMPDIR"),
    ],
)
def test_too_little_room_is_the_machines_matter_and_not_the_exports(
    error: Exception, cure: str, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(MachineError, match="too little room to verify the model") as raised:
        probe._load_exported(tmp_path, {"as": "merged", "exported": str(merged)}, {"device": "cpu"})
    assert cure in raised.value.cure
    # And where it is not loading that takes it.
    monkeypatch.setattr(probe, "ask_trained", fail)
    (tmp_path / probe.REQUEST).write_text("{}")
    assert probe.main("trained", tmp_path) == ExitCode.MACHINE
    assert json.loads((tmp_path / probe.REFUSED).read_text())["kind"] == "MachineError"


def test_a_defect_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*request\.json"):
        run_side("trained", tmp_path)


def test_without_data_of_its_own_the_built_in_questions_are_asked(trained: Subject) -> None:
    from gptoss_ft.data.tokenizer import load_job_tokenizer

    tokenizer = load_job_tokenizer(trained.job.model)
    prompts = make_prompts(trained.job, tokenizer, own_data=False)
    assert len(prompts) == len(BUILT_IN) == 8
    assert all(len(ids) <= 256 for ids in prompts)
    assert BUILT_IN[0][0] in tokenizer.decode(prompts[0])
    gone = trained.job.datasets[0].model_copy(update={"path": "gone.jsonl"})
    assert make_prompts(trained.job.model_copy(update={"dataset": gone}), tokenizer, own_data=True) == prompts


def test_the_comparison_is_what_its_formula_says() -> None:
    trained, exported = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    found = compare([(trained[:1], exported[:1]), (trained[1:], exported[1:])])
    p, q = trained[1].softmax(0), exported[1].softmax(0)
    divergence = float((p * (p / q).log()).sum())
    assert found.max_abs_logit_difference == 2.0
    assert found.max_kl == pytest.approx(divergence, rel=1e-6)
    assert found.mean_kl == pytest.approx(divergence / 2, rel=1e-6)
    assert (found.top1_agreement, found.positions) == (0.5, 2)
    # Both positions lead by a nat or more; of these two, one.
    assert (found.decided_agreement, found.decided) == (0.5, 2)
    undecided = compare([(torch.tensor([[0.0, 0.9]]), torch.tensor([[1.0, 0.0]]))])
    assert (undecided.decided_agreement, undecided.decided) == (None, 0)


def test_no_number_is_beyond_every_tolerance() -> None:
    nan = float("nan")
    found = compare([(torch.tensor([[nan, 0.0]]), torch.tensor([[nan, 0.0]]))])
    for tolerance in (SAME_SUMS, rounded(None)):
        figures = (found.max_abs_logit_difference, found.mean_kl, found.max_kl, found.top1_agreement)
        verification = Verification(
            *figures, found.decided_agreement, found.decided, None, 1, 1, "x", "y", tolerance, 1
        )
        assert len(verification.beyond) == 1
