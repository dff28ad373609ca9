"""The loss by channel: against stock transformers and PEFT in a process without Unsloth, and against other models'
own forward."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from rich.console import Console

from gptoss_ft.config import LoadedConfig, load_job_config
from gptoss_ft.data.channels import ChannelReader
from gptoss_ft.data.entries import open_entries
from gptoss_ft.data.prepare import prepare
from gptoss_ft.data.storage import PreparedData
from gptoss_ft.data.tokenizer import load_job_tokenizer
from gptoss_ft.errors import ExportError, MachineError, NotFiniteError, OutputError, SettingError
from gptoss_ft.inference import evaluate, evaluate_command, training_attention
from gptoss_ft.inference.evaluate import Loss, Measured, evaluate_split, measure
from gptoss_ft.model import attention
from gptoss_ft.model.building import build_model
from gptoss_ft.model.loading import load_base
from gptoss_ft.model.repository import find_repository
from gptoss_ft.runtime import Device
from gptoss_ft.subject import find_subject

JOB = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 16, eval_fraction: 0.3}
lora: {r: 4, alpha: 8, modules_to_save: [lm_head]}
training: {per_device_train_batch_size: 3, output_dir: run}
tracking: {report_to: none}
"""

# Stock libraries alone: the sum of the cross entropy of each channel, of the adapted model and of its base.
STOCK = """
import json, sys
sys.modules["unsloth"] = sys.modules["unsloth_zoo"] = None
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, rows = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
channel_token = tokenizer.convert_tokens_to_ids("<|channel|>")

def sums(model):
    found = {}
    for row in json.load(open(rows)):
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0].double()
        channel = None
        for at, label in enumerate(row["labels"]):
            if row["input_ids"][at] == channel_token:
                words = tokenizer.decode(row["input_ids"][at + 1 : at + 8])
                channel = next(name for name in ("analysis", "commentary", "final") if words.startswith(name))
            if label != -100:
                # The model is asked for the first word after <|start|>assistant, which is <|channel|>.
                found.setdefault(channel, []).append(-torch.log_softmax(logits[at - 1], -1)[label].item())
    return {name: [len(values), sum(values)] for name, values in found.items()}

model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
plain = sums(model)
print(json.dumps({"base": plain, "adapted": sums(PeftModel.from_pretrained(model, adapter).eval())}))
"""


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedConfig:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    return load_job_config(Path("job.yaml"), ())


@pytest.fixture
def data(loaded: LoadedConfig) -> PreparedData:
    return prepare(loaded.job, open_entries(loaded.job), load_job_tokenizer(loaded.job.model))


@pytest.fixture
def reader(loaded: LoadedConfig) -> ChannelReader:
    return ChannelReader(load_job_tokenizer(loaded.job.model))


@pytest.fixture
def adapted(loaded: LoadedConfig, device: Device) -> Any:
    """The tiny model with an adapter, experts and lm_head included, that changes what it says."""
    model = build_model(loaded.job, find_repository(loaded.job.model), device, Console(quiet=True))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def base_of(loaded: LoadedConfig, device: Device) -> Any:
    return load_base(loaded.job.model, find_repository(loaded.job.model), device, loaded.job.training)


def assert_equal(measured: Measured, expected: dict[str, list[float]]) -> None:
    assert measured.channels.keys() == expected.keys()
    for channel, (tokens, nats) in expected.items():
        assert measured.channels[channel].tokens == tokens
        assert measured.channels[channel].nats == pytest.approx(nats, rel=1e-6)


def test_the_losses_are_those_of_stock_transformers_and_peft(
    adapted: Any, data: PreparedData, loaded: LoadedConfig, tiny_gpt_oss: Path, tmp_path: Path
) -> None:
    report = evaluate_split(adapted, load_job_tokenizer(loaded.job.model), data, loaded.job, "mine")
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "rows.json").write_text(json.dumps(data.eval.select(["input_ids", "labels"]).to_pylist()))
    arguments = [str(tiny_gpt_oss), str(tmp_path / "adapter"), str(tmp_path / "rows.json")]
    child = subprocess.run([sys.executable, "-c", STOCK, *arguments], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    stock = json.loads(child.stdout)
    assert report.base is not None
    assert_equal(report.measured, stock["adapted"])
    assert_equal(report.base, stock["base"])
    assert report.measured.total.mean > report.base.total.mean + 0.5
    assert {name: loss.tokens for name, loss in report.base.channels.items()} == dict(data.summary.eval.channels)


def test_the_base_model_is_one_that_never_had_an_adapter(
    adapted: Any, data: PreparedData, loaded: LoadedConfig, device: Device, reader: ChannelReader
) -> None:
    report = evaluate_split(adapted, load_job_tokenizer(loaded.job.model), data, loaded.job, "mine")
    assert report.base is not None
    plain = measure(base_of(loaded, device), data.eval, reader, 3)
    assert plain.channels.keys() == report.base.channels.keys()
    assert plain.total.nats == pytest.approx(report.base.total.nats, rel=1e-6)
    # The adapter is on again afterwards.
    assert measure(adapted, data.eval, reader, 3) == report.measured


@pytest.mark.parametrize("rows_at_once", [1, 2, 16])
def test_how_much_is_computed_at_once_does_not_matter(
    rows_at_once: int, adapted: Any, data: PreparedData, reader: ChannelReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(adapted, data.eval, reader, 3).total
    monkeypatch.setattr(evaluate, "LOGITS_BYTES", 4 * 1088 * 7)
    pieces = measure(adapted, data.eval, reader, rows_at_once).total
    assert (pieces.tokens, pieces.nats) == (whole.tokens, pytest.approx(whole.nats, rel=1e-6))


def test_logits_are_never_more_than_allowed(
    adapted: Any, data: PreparedData, reader: ChannelReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "LOGITS_BYTES", 4 * 1088 * 7)
    rows: list[int] = []
    head = adapted.get_base_model().get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: rows.append(output.shape[0] * output.shape[1]))
    tokens = measure(adapted, data.eval, reader, 3).total.tokens
    assert max(rows) == 7
    assert sum(rows) == tokens


def test_nothing_of_the_model_and_of_chance_is_changed(adapted: Any, data: PreparedData, reader: ChannelReader) -> None:
    adapted.train()
    adapted.get_base_model().model.layers[0].self_attn.eval()
    modes = [module.training for module in adapted.modules()]
    state = torch.get_rng_state()
    gradients = [parameter.requires_grad for parameter in adapted.parameters()]
    measure(adapted, data.eval, reader, 3)
    assert [module.training for module in adapted.modules()] == modes
    assert [parameter.requires_grad for parameter in adapted.parameters()] == gradients
    assert torch.equal(torch.get_rng_state(), state)
    assert "forward" not in vars(adapted.get_base_model().model)


SMALL = {
    "vocab_size": 1088, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "own"),
    [
        ("Llama", {}),
        ("Gemma2", {"final_logit_softcapping": 0.5, "head_dim": 16}),
        ("Cohere", {"logit_scale": 7.0}),
        ("Granite", {"logits_scaling": 0.1}),
    ],
)
def test_what_a_family_does_to_its_logits_is_done(
    family: str, own: dict[str, float], data: PreparedData, reader: ChannelReader
) -> None:
    config = getattr(transformers, f"{family}Config")(**SMALL, **own, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    total, tokens = 0.0, 0
    for row in data.eval.to_pylist():
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum", ignore_index=-100).item()
        tokens += int((labels != -100).sum())
    measured = measure(model, data.eval, reader, 2).total
    assert (measured.tokens, measured.nats) == (tokens, pytest.approx(total, rel=1e-6))


def test_the_first_token_of_a_text_is_not_counted(loaded: LoadedConfig, device: Device, reader: ChannelReader) -> None:
    row = pa.table({"input_ids": [np.arange(5, 10, dtype=np.int32)], "labels": [np.arange(5, 10, dtype=np.int32)]})
    measured = measure(base_of(loaded, device), row, reader, 2)
    assert {name: loss.tokens for name, loss in measured.channels.items()} == {"text": 4}


def test_a_loss_that_is_no_number_is_an_error(adapted: Any, data: PreparedData, reader: ChannelReader) -> None:
    next(parameter for parameter in adapted.parameters() if parameter.requires_grad).data.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="evaluation: the loss is nan"):
        measure(adapted, data.eval, reader, 3)


def test_memory_that_runs_out_is_the_machines_error(adapted: Any, data: PreparedData, reader: ChannelReader) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    adapted.get_base_model().model.register_forward_pre_hook(out_of_memory)
    with pytest.raises(MachineError, match=r"ran out while evaluating: CUDA out of memory\.$"):
        measure(adapted, data.eval, reader, 3)


def test_training_attention_is_for_gpt_oss_where_flex_attention_is_in_place(
    adapted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with training_attention.training_attention(adapted) as multiple:
        assert multiple == 1
        assert not any(module.training for module in adapted.modules())
    # The names that this relies on are the installed zoo's.
    zoo = importlib.import_module(attention.ZOO_MODULE)
    assert getattr(zoo, attention.ZOO_FLAG) is False
    assert zoo.GptOssExpertsBnb4bit.__name__ in ("GptOssExperts", "GptOssExpertsBnb4bit")
    monkeypatch.setattr(zoo, attention.ZOO_FLAG, True)
    adapted.train()
    with training_attention.training_attention(adapted) as multiple:
        assert multiple == 128
        modes = [type(module).__name__ for module in adapted.modules() if module.training]
    assert sorted(modes) == ["GptOssAttention"] * 2 + ["GptOssExperts"] * 2 + ["GptOssModel"]
    assert all(module.training for module in adapted.modules())


def test_rows_padded_for_flex_attention_have_the_same_loss(
    adapted: Any, data: PreparedData, reader: ChannelReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = measure(adapted, data.eval, reader, 2).total.nats
    monkeypatch.setattr(importlib.import_module(attention.ZOO_MODULE), attention.ZOO_FLAG, True)
    shapes: list[tuple[int, ...]] = []
    adapted.get_base_model().model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    assert measure(adapted, data.eval, reader, 2).total.nats == pytest.approx(before, rel=1e-6)
    # Calls with one row are those that ask for logits.
    assert {shape for shape in shapes if shape[0] == 2} == {(2, 256)}


def test_perplexity_is_that_of_the_mean() -> None:
    measured = Measured({"analysis": Loss(2, 4.0), "final": Loss(6, 4.0)})
    assert measured.total == Loss(8, 8.0)
    assert measured.total.perplexity == pytest.approx(math.e)


@pytest.fixture
def adapter_folder(adapted: Any, loaded: LoadedConfig) -> Path:
    folder = Path("outputs/run/final_model")
    adapted.save_pretrained(folder)
    (folder.parent / "job.yaml").write_text(JOB)
    return folder


def test_the_command_measures_an_adapter_beside_its_base(
    adapter_folder: Path, data: PreparedData, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path("evaluation.json")
    evaluate_command.evaluate(find_subject(str(adapter_folder), None, ()), "eval", None, output)
    facts = json.loads(output.read_text())
    assert facts["samples"] == data.eval.num_rows
    assert facts["model"] == str(adapter_folder)
    assert facts["total"]["change_percent"] > 5
    assert facts["channels"].keys() == {"analysis", "final"}
    said = capsys.readouterr().out
    assert f"{facts['total']['base_loss']:.4f}" in said
    assert f"{facts['channels']['final']['perplexity']:,.2f}" in said

    evaluate_command.evaluate(find_subject("base", Path("job.yaml"), ()), "eval", None, output)
    base = json.loads(output.read_text())
    assert base["total"]["loss"] == pytest.approx(facts["total"]["base_loss"], abs=2e-6)
    assert base["total"].keys() == {"tokens", "loss", "perplexity"}


def test_the_command_takes_the_first_samples_of_either_split(loaded: LoadedConfig, data: PreparedData) -> None:
    report = evaluate_command.evaluate(find_subject("base", Path("job.yaml"), ()), "train", 2, None)
    labels = data.train["labels"][:2].to_pylist()
    assert report.samples == 2
    assert report.measured.total.tokens == sum(label != -100 for row in labels for label in row)


def test_without_held_out_rows_there_is_nothing_to_evaluate(loaded: LoadedConfig) -> None:
    subject = find_subject("base", Path("job.yaml"), ("dataset.eval_fraction=0",))
    with pytest.raises(SettingError, match="no row is held out") as caught:
        evaluate_command.evaluate(subject, "eval", None, None)
    assert "--split train" in caught.value.cure
    assert caught.value.key == "dataset.eval_fraction"


def test_a_file_that_cannot_be_written_is_told_before_anything_is_loaded(loaded: LoadedConfig) -> None:
    with pytest.raises(OutputError, match=r"nowhere/x.json cannot be written"):
        evaluate_command.evaluate(find_subject("base", Path("job.yaml"), ()), "eval", None, Path("nowhere/x.json"))


def test_the_loss_of_a_model_from_a_process_of_its_own(loaded: LoadedConfig, device: Device) -> None:
    whole = Path("merged")
    base_of(loaded, device).save_pretrained(whole)
    load_job_tokenizer(loaded.job.model).save_pretrained(whole)
    here = evaluate_command.evaluate(find_subject("base", Path("job.yaml"), ()), "eval", None, None)
    loss = evaluate_command.loss_in_child(["--model", str(whole), "--config", "job.yaml"])
    assert loss == pytest.approx(here.measured.total.mean, abs=1e-5)
    with pytest.raises(ExportError, match=r"failed: error: \./nowhere is neither a file or folder"):
        evaluate_command.loss_in_child(["--model", "./nowhere"])
