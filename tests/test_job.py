"""The whole job on the tiny model, in this process."""

import json
import os
import re
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from gptoss_ft import finetuning, job
from gptoss_ft.config import LoadedConfig, load_job_config
from gptoss_ft.errors import DataError, Interrupted, NotFiniteError, OutputError, SettingError
from gptoss_ft.job import RunResult
from gptoss_ft.reporting.output_folder import Start, claimed_folder

SMALL = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 24}
training: {max_steps: 4, per_device_train_batch_size: 2, gradient_accumulation_steps: 2, learning_rate: 5e-3,
           warmup_steps: 1, optim: adamw_torch_fused, save_steps: 2, output_dir: run}
tracking: {report_to: none}
"""

Run = Callable[..., RunResult]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedConfig]:
    """Load the small job with overrides; its output goes to tmp_path/outputs."""
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(SMALL)
    return lambda *overrides: load_job_config(Path("job.yaml"), overrides)


@pytest.fixture
def run(load: Callable[..., LoadedConfig]) -> Run:
    return lambda *overrides, restart=False: job.train(load(*overrides), Start(restart))


def test_packed_rows_are_what_a_step_takes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("training.packing=true", "training.max_steps=2", "training.save_steps=9", "model.max_seq_length=512")
    said = " ".join(capsys.readouterr().out.split())
    found = re.search(r"packing: 24 samples in (\d+) rows of 512 tokens, ([\d.]+) % full", said)
    assert found is not None
    records = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    # More than eight samples hold, the longest of which has 169 tokens.
    assert records[-1]["tokens"] > 2 * 4 * 170
    assert int(found[1]) < 12
    assert result.losses[-1] < result.losses[0]


def test_torch_is_told_which_model_its_compiled_code_is_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Unsloth's import, as after that something might be compiled."""
    seen: list[str | None] = []

    def stop(device: object) -> None:
        seen.append(torch.compiler.config.job_id)
        raise Interrupted("here", "")

    monkeypatch.setattr(job, "import_unsloth", stop)
    for name in ("tiny/gpt-oss", "tiny/llama"):
        with torch.compiler.config.patch(job_id=None), pytest.raises(Interrupted):
            run(f"model.name={name}")
    assert len(set(seen)) == 2 and all(str(each).startswith("gptoss_ft-") for each in seen)


def test_packing_ends_where_attention_cannot_keep_samples_apart(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "document_attention", lambda model: None)
    with pytest.raises(SettingError, match="cannot be packed") as refused:
        run("training.packing=true")
    assert refused.value.key == "training.packing"


def test_a_run_leaves_what_the_readme_promises(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    previous = os.umask(0o027)
    try:
        result = run()
    finally:
        os.umask(previous)
    folder = Path("outputs/run")
    assert result.folder == folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml", "outputs"]
    assert stat.S_IMODE(Path("outputs/.run.lock").stat().st_mode) & 0o027 == 0
    assert {path.name for path in folder.iterdir()} >= {
        "checkpoint-2", "checkpoint-4", "final_model", "libraries.log", "log.jsonl", "manifest.json",
        "memory_report.json",
    }  # fmt: skip
    modes = {str(path): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert {path for path, mode in modes.items() if mode != 0o640} == set()

    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert result.losses == [record["loss"] for record in records]
    assert records[0]["steps"] == 4
    assert records[-1]["seconds_left"] == 0
    assert all(record["tokens_per_second"] > 0 and record["gib"] > 0 for record in records)

    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["config"]["training"]["learning_rate"] == 5e-3
    assert manifest["data"]["rows"] == manifest["data"]["samples"] == 24
    assert manifest["model"]["trainable"] == 27_648
    assert manifest["versions"]["unsloth"] == "2026.10.9"
    assert len(manifest["code"]["lock_sha256"]) == 64

    memory = json.loads((folder / "memory_report.json").read_text())
    assert 0 < memory["before_training_gib"] <= memory["peak_gib"] < memory["total_gib"]
    assert memory["peak_percent"] == pytest.approx(100 * memory["peak_gib"] / memory["total_gib"], abs=0.05)

    said = capsys.readouterr().out
    assert re.search(r"trainable +27,648 \(9.45 %\), 20,480 of them in experts", said)
    assert "Unsloth" not in said
    assert "==((====))==" not in said


def test_final_model_is_the_trained_adapter_with_the_models_own_template(run: Run, tiny_gpt_oss: Path) -> None:
    final = run().final_model
    base = AutoModelForCausalLM.from_pretrained(tiny_gpt_oss, dtype=torch.float32)
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, final).eval()(ids).logits
    assert (adapted - plain).abs().max() > 0.1
    assert (final / "chat_template.jinja").read_bytes() == (tiny_gpt_oss / "chat_template.jinja").read_bytes()
    assert (final / "tokenizer.json").read_bytes() == (tiny_gpt_oss / "tokenizer.json").read_bytes()
    ModelCard.load(final / "README.md").data.to_dict()
    assert "tiny/gpt-oss" in (final / "README.md").read_text()
    assert not list(final.parent.glob("*.md")) + list(final.parent.glob("checkpoint-*/*.md"))
    text = "Ünïcode <|end|> 한국어"
    saved, own = (AutoTokenizer.from_pretrained(folder) for folder in (final, tiny_gpt_oss))
    assert saved(text)["input_ids"] == own(text)["input_ids"]


def test_the_loss_is_the_mean_over_the_trained_tokens(run: Run, load: Callable[..., LoadedConfig]) -> None:
    """The first logged loss, derived once more with stock transformers: nothing but the labelled tokens counts."""
    result = run("training.max_steps=1", "training.save_steps=100")
    from gptoss_ft.data.entries import open_entries
    from gptoss_ft.data.prepare import prepare
    from gptoss_ft.data.tokenizer import load_job_tokenizer
    from gptoss_ft.model.repository import find_repository

    config = load().job
    repository = find_repository(config.model)
    data = prepare(config, open_entries(config), load_job_tokenizer(config.model)).train.to_pylist()
    model = AutoModelForCausalLM.from_pretrained(repository, dtype=torch.float32).eval()
    torch.manual_seed(config.training.seed)
    # The sampler's order: transformers seeds a RandomSampler's generator with the run's seed.
    order = torch.randperm(24, generator=torch.Generator().manual_seed(config.training.seed)).tolist()[:4]
    total, count = 0.0, 0
    for index in order:
        row = data[index]
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"])[1:]
        total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum", ignore_index=-100).item()
        count += int((labels != -100).sum())
    assert result.losses[0] == pytest.approx(total / count, rel=1e-4)


def test_a_finished_job_is_not_overwritten_and_restart_keeps_it_aside(run: Run) -> None:
    run("training.max_steps=1")
    before = Path("outputs/run/manifest.json").read_bytes()
    with pytest.raises(OutputError, match="outputs/run holds a finished job"):
        run("training.max_steps=1")
    assert Path("outputs/run/manifest.json").read_bytes() == before
    run("training.max_steps=1", restart=True)
    assert Path("outputs/run.old-1/manifest.json").read_bytes() == before
    assert json.loads(Path("outputs/run/manifest.json").read_text())["status"] == "finished"


def test_a_folder_that_is_not_a_jobs_is_left_alone(run: Run) -> None:
    Path("outputs/run").mkdir(parents=True)
    Path("outputs/run/thesis.tex").write_text("x")
    with pytest.raises(OutputError, match=r"not empty and holds no manifest.json: thesis.tex"):
        run()
    assert [path.name for path in Path("outputs/run").iterdir()] == ["thesis.tex"]


class SignalAt(TrainerCallback):
    """Sends this process a signal while step `step` is being computed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: object, state: object, control: object, **kwargs: object) -> None:
        if getattr(state, "global_step", None) == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def interrupted_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was told to stop during its third step of four."""
    build = finetuning.build_trainer

    def build_and_interrupt(*args: object) -> object:
        trainer = build(*args)  # type: ignore[arg-type]  # handed through as they came
        trainer.add_callback(SignalAt(3))
        return trainer

    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="after 3 of 4 steps, the state is saved"):
        patched.setattr(finetuning, "build_trainer", build_and_interrupt)
        run()
    assert json.loads(Path("outputs/run/manifest.json").read_text())["status"] == "interrupted"


def test_the_same_command_continues_after_an_interruption(run: Run, interrupted_run: None) -> None:
    first = Path("outputs/run/log.jsonl").read_text().splitlines()
    assert len(first) == 3
    run()
    records = [json.loads(line) for line in Path("outputs/run/log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    continued = records[3]["loss"]
    run(restart=True)
    uninterrupted = json.loads(Path("outputs/run/log.jsonl").read_text().splitlines()[3])["loss"]
    assert continued == pytest.approx(uninterrupted, rel=1e-5)


def test_an_unfinished_job_of_another_config_is_not_continued(run: Run, interrupted_run: None) -> None:
    with pytest.raises(OutputError, match=r"changed:\n  training.learning_rate: 0.005 → 0.001$"):
        run("training.learning_rate=1e-3")


def test_an_unfinished_job_on_changed_rows_is_not_continued(
    load: Callable[..., LoadedConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(answer: str) -> None:
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]
        Path("rows.jsonl").write_text(json.dumps({"messages": messages}) + "\n")

    build = finetuning.build_trainer
    rows("Hello")
    loaded = load("dataset.path=rows.jsonl")
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(finetuning, "build_trainer", lambda *args: [t := build(*args), t.add_callback(SignalAt(1))][0])
        job.train(loaded)
    rows("Good day")
    with pytest.raises(
        OutputError, match=r"changed:\n  data: 1 rows, 1 samples, sha256 \w{12} → 1 rows, 1 samples, sha256 \w{12}$"
    ):
        job.train(loaded)


def test_a_loss_that_is_not_finite_stops_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    build = finetuning.build_trainer

    def poison(model: torch.nn.Module, *args: object) -> object:
        next(p for p in model.parameters() if p.requires_grad).data.fill_(float("inf"))
        return build(model, *args)  # type: ignore[arg-type]  # handed through as they came

    monkeypatch.setattr(finetuning, "build_trainer", poison)
    with pytest.raises(NotFiniteError, match="step 1: loss is nan"):
        run()


def test_training_goes_on_from_an_existing_adapter(run: Run) -> None:
    first = run("training.max_steps=4")
    second = run(f"model.adapter={first.final_model}", "training.max_steps=1", "training.output_dir=second")
    fresh = run("training.max_steps=1", "training.output_dir=fresh")
    assert second.losses[0] < fresh.losses[0] - 0.1


def test_an_adapter_of_another_shape_is_refused(run: Run) -> None:
    first = run("training.max_steps=1")
    with pytest.raises(DataError, match=r"does not fit: \d+ of \d+ tensors differ in name or shape"):
        run(f"model.adapter={first.final_model}", "lora.target_modules=[q_proj]", "training.output_dir=second")


def test_a_sample_longer_than_the_model_is_a_mistake_in_the_config(run: Run) -> None:
    with pytest.raises(SettingError, match="read 100000, but tiny/gpt-oss takes at most 4096 tokens") as caught:
        run("model.max_seq_length=100000")
    assert caught.value.key == "model.max_seq_length"


def test_epochs_end_a_run_too(run: Run) -> None:
    result = run("training.max_steps=", "training.num_train_epochs=2", "dataset.max_samples=8")
    assert len(result.losses) == 4


def test_llama_is_trained_by_the_same_code(run: Run) -> None:
    result = run("model.name=tiny/llama", "dataset.path=tiny/finetome")
    assert len(result.losses) == 4
    assert result.losses[-1] < result.losses[0]


def test_a_run_stopped_after_its_last_step_only_lacks_final_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(finetuning, "save_final_model", fail)
        run()
    before = Path("outputs/run/checkpoint-4/adapter_model.safetensors").read_bytes()
    result = run()
    assert sorted(path.name for path in Path("outputs/run").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert [json.loads(line)["step"] for line in Path("outputs/run/log.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    assert len(result.losses) == 4
    assert (result.final_model / "adapter_model.safetensors").read_bytes() == before


def test_a_signal_in_the_last_step_interrupts_as_well(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sent it waits for the end, and final_model, an evaluation and a push may take longer than that."""
    build = finetuning.build_trainer
    with monkeypatch.context() as patched, pytest.raises(Interrupted, match="after 4 of 4 steps, the state is saved"):
        patched.setattr(finetuning, "build_trainer", lambda *args: [t := build(*args), t.add_callback(SignalAt(4))][0])
        run()
    assert not Path("outputs/run/final_model").exists()
    assert len(run().losses) == 4
    assert json.loads(Path("outputs/run/manifest.json").read_text())["status"] == "finished"


def resolve_otherwise(**values: str) -> None:
    path = Path("outputs/run/manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest["resolved"] == {"dtype": "float32", "optimizer": "adamw_torch_fused"}
    manifest["resolved"].update(values)
    path.write_text(json.dumps(manifest))


def test_a_machine_that_resolves_another_dtype_needs_permission(
    load: Callable[..., LoadedConfig], interrupted_run: None
) -> None:
    resolve_otherwise(dtype="float16")
    with pytest.raises(OutputError, match=r"changed:\n  model.dtype: resolved as float16 → resolved as float32$"):
        job.train(load())
    job.train(load(), Start(allowed=("model.dtype",)))
    (change,) = json.loads(Path("outputs/run/manifest.json").read_text())["continued"][0]["changed"]
    assert change == {"key": "model.dtype", "before": "resolved as float16", "now": "resolved as float32"}


def test_another_optimizers_state_does_not_fit(load: Callable[..., LoadedConfig], interrupted_run: None) -> None:
    resolve_otherwise(optimizer="adamw_8bit")
    with pytest.raises(OutputError, match=r"training\.optim: resolved as adamw_8bit → resolved as adamw_torch_fused"):
        job.train(load(), Start(allowed=("training.optim",)))


def test_larger_steps_do_not_end_a_job_half_trained(
    load: Callable[..., LoadedConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = ("training.max_steps=", "training.num_train_epochs=2", "dataset.max_samples=8")
    build = finetuning.build_trainer
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(finetuning, "build_trainer", lambda *args: [t := build(*args), t.add_callback(SignalAt(3))][0])
        job.train(load(*epochs))
    larger = load(*epochs, "training.gradient_accumulation_steps=4")
    with pytest.raises(
        OutputError, match=r"2 epochs are 2 steps by now, but .*checkpoint-3 is already of step 3"
    ) as no:
        job.train(larger, Start(allowed=("training.gradient_accumulation_steps",)))
    assert no.value.key == "training.num_train_epochs"


def test_losses_are_means_over_the_same_steps_after_an_interruption(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ("training.logging_steps=10", "training.save_steps=100")
    build = finetuning.build_trainer
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(finetuning, "build_trainer", lambda *args: [t := build(*args), t.add_callback(SignalAt(3))][0])
        run(*overrides)
    assert Path("outputs/run/log.jsonl").read_text() == ""
    seconds = json.loads(Path("outputs/run/checkpoint-3/trainer_state.json").read_text())
    continued = run(*overrides)
    assert len(continued.losses) == 1
    report = json.loads(Path("outputs/run/memory_report.json").read_text())
    assert report["run_seconds"] > seconds["stateful_callbacks"]["StepReporter"]["attributes"]["seconds"]
    assert continued.losses == run(*overrides, restart=True).losses


def test_the_last_step_is_logged_whatever_logging_steps_is(run: Run) -> None:
    result = run("training.logging_steps=3", "training.save_steps=2")
    records = [json.loads(line) for line in Path("outputs/run/log.jsonl").read_text().splitlines()]
    # Those of logging_steps, those before a checkpoint, the last.
    assert [record["step"] for record in records] == [2, 3, 4]
    assert result.losses == [record["loss"] for record in records]


def test_an_adapter_of_another_scale_is_refused(run: Run) -> None:
    first = run("training.max_steps=1")
    with pytest.raises(SettingError, match=r"read 64, but the adapter .* was trained with 16") as caught:
        run(f"model.adapter={first.final_model}", "lora.alpha=64", "training.output_dir=second")
    assert caught.value.key == "lora.alpha"


def test_a_second_run_on_the_same_folder_is_refused_while_the_first_lives(load: Callable[..., LoadedConfig]) -> None:
    claimed = load().job
    refused = pytest.raises(OutputError, match="another run is writing to")
    with claimed_folder(claimed), refused, claimed_folder(claimed, Start(restart=True)):
        pass
    with claimed_folder(claimed) as output:
        assert output.resume_from is None


def test_a_kill_in_the_middle_of_a_write_is_survived(run: Run, interrupted_run: None) -> None:
    folder = Path("outputs/run")
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 3, "lo')
    broken = folder / "checkpoint-4"
    broken.mkdir()
    (broken / "trainer_state.json").write_text('{"global_step": 4')
    (folder / "checkpoint-3.bak").mkdir()
    result = run()
    assert len(result.losses) == 4
    assert [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
