"""Which model and which job a command after training works on."""

import json
from pathlib import Path
from typing import Any

import pytest

from gptoss_ft.config import JobConfig, write_job_file
from gptoss_ft.errors import DataError, HubError, OutputError, SettingError
from gptoss_ft.subject import find_subject

TRAINED = {
    "model": {"name": "tiny/llama", "load_in_4bit": False},
    "lora": {"r": 16},
    "dataset": {"path": "tiny/text", "eval_fraction": 0.25},
    "training": {"output_dir": "run"},
}


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose job is not config.yaml's, which only names the same folder."""
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("training: {output_dir: run}\n")
    folder = Path("outputs/run")
    for name in ("final_model", "checkpoint-4"):
        (folder / name).mkdir(parents=True)
        (folder / name / "adapter_config.json").write_text("{}")
    (folder / "merged_model").mkdir()
    (folder / "merged_model" / "config.json").write_text("{}")
    write_job_file(JobConfig.model_validate(TRAINED), folder)
    return folder


@pytest.mark.parametrize("name", [None, "final_model", "checkpoint-4", "outputs/run/final_model"])
def test_an_adapters_job_is_the_one_beside_it(name: str | None, run: Path) -> None:
    subject = find_subject(name, None, ["dataset.split=train[:5]"])
    job = subject.job
    assert (subject.kind, subject.folder) == ("adapter", run / (name or "final_model").rpartition("/")[2])
    assert (job.model.name, job.model.load_in_4bit, job.lora.r) == ("tiny/llama", False, 16)
    assert (job.datasets[0].eval_fraction, job.datasets[0].split) == (0.25, "train[:5]")
    assert job.model.adapter == str(subject.folder)
    assert subject.own_job() == JobConfig.model_validate(TRAINED)
    assert subject.beside("merged_model") == run / "merged_model"


def test_so_is_that_of_the_base_and_of_a_merged_model(run: Path) -> None:
    base = find_subject("base", None, [])
    assert (base.kind, base.folder, base.job.model.name, base.job.model.adapter) == ("base", None, "tiny/llama", None)
    merged = find_subject("merged_model", None, [])
    assert (merged.kind, merged.job.model.name) == ("merged", str(run / "merged_model"))
    assert merged.job.datasets[0].path == "tiny/text"
    assert merged.own_job().model.name == "tiny/llama"
    with pytest.raises(SettingError, match="is a whole model, without an adapter"):
        merged.require_adapter()


def test_a_config_that_is_named_decides_about_all_but_the_adapter(run: Path) -> None:
    Path("other.yaml").write_text("{model: {name: tiny/llama}, training: {output_dir: run}}")
    job = find_subject("final_model", Path("other.yaml"), []).job
    assert (job.datasets[0].eval_fraction, job.lora.r) == (0.0, 16)


def test_a_config_of_another_base_is_refused_unless_set_says_so(run: Path) -> None:
    with pytest.raises(SettingError, match=r"read unsloth/gpt-oss-20b, but .*final_model was trained on tiny/llama"):
        find_subject(None, Path("config.yaml"), [])
    assert find_subject(None, None, ["model.name=moved/llama"]).job.model.name == "moved/llama"


def test_what_a_run_does_have_is_told(run: Path) -> None:
    (run / "checkpoint-12").mkdir()
    with pytest.raises(OutputError) as raised:
        find_subject("checkpoint-9", None, [])
    assert raised.value.cure == "There are final_model, merged_model, checkpoint-12, checkpoint-4."
    (run / "merged_model").rename("elsewhere")
    with pytest.raises(OutputError, match="there is no outputs/run/merged_model") as raised:
        find_subject("merged_model", None, [])
    assert raised.value.cure == "Merge first, with the command merge."
    with pytest.raises(DataError, match="outputs/run is a run's folder, which holds 3 models") as own:
        find_subject("outputs/run", None, [])
    assert own.value.cure.startswith("Name one of them: outputs/run/final_model, outputs/run/checkpoint-12, ")


def test_outputs_are_found_where_the_output_root_is(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("outputs").rename("results")
    monkeypatch.setenv("GPTOSS_FT_OUTPUT_ROOT", "results")
    # As a model card names it, and as the container, which has its results elsewhere, does not.
    assert find_subject("outputs/run/final_model", None, []).folder == Path("results/run/final_model")


def test_an_adapters_own_settings_cannot_be_set(run: Path) -> None:
    with pytest.raises(SettingError, match=r"--set lora.r has no effect: outputs/run/final_model is trained") as raised:
        find_subject(None, None, ["lora.r=16"])
    assert raised.value.key == "lora.r"


PORTABLE = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8.0, "target_modules": ["q_proj"],
    "target_parameters": ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"], "use_rslora": True,
}  # fmt: skip


def foreign(**changes: Any) -> str:
    folder = Path("foreign")
    folder.mkdir()
    content = {key: value for key, value in {**PORTABLE, **changes}.items() if value is not ...}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return str(folder)


def test_an_adapter_without_a_job_is_understood_by_its_own_settings() -> None:
    subject = find_subject(foreign(), None, [])
    assert subject.job.lora.model_dump(exclude={"dropout"}) == {
        "r": 4, "alpha": 8, "bias": "none", "target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"],
        "target_parameters": None, "use_rslora": True, "use_dora": False, "modules_to_save": None,
    }  # fmt: skip
    with pytest.raises(SettingError, match="foreign is in no run's folder"):
        subject.beside("merged_model")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "holds a IA3 adapter"),
        ({"r": ...}, "not a LoRA adapter's that can be used here: 'r'"),
        ({"target_modules": "(?:.*)"}, "by a pattern"),
        ({"target_modules": [], "target_parameters": ["7.mlp.experts.down_proj"]}, "target_modules"),
    ],
)
def test_one_that_cannot_be_used_is_the_datas_matter(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        find_subject(foreign(**changes), None, [])


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(OutputError, match="there is no folder nowhere"):
        find_subject("nowhere", None, [])
    with pytest.raises(OutputError, match="there is no outputs/run/checkpoint-9"):
        find_subject("checkpoint-9", None, [])
    with pytest.raises(HubError, match="and there is no folder outputs/laptop"):
        find_subject("outputs/laptop", None, [])
    with pytest.raises(OutputError, match="there is no folder ''"):
        find_subject("", None, [])
    Path("README.md").touch()
    with pytest.raises(OutputError, match=r"README.md is a file, not a folder"):
        find_subject("README.md", None, [])
    Path("empty").mkdir()
    with pytest.raises(DataError, match=r"holds neither adapter_config.json nor config.json"):
        find_subject("empty", None, [])
