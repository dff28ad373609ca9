"""Every recipe end to end, offline, through the commands: only the model, the data and the number of steps are tiny
ones, and the device is the CPU, which has no 4-bit weights and no 8-bit optimizer."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from gptoss_ft.cli import app
from gptoss_ft.config import load_job_config

CONFIGS = Path(__file__).parents[1] / "configs"
# The smoke job is tiny already, and tested as it stands.
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "smoke")
# What stands for each recipe's model and data: of the same family and the same schema.
TINY = {
    "cookbook_bf16": ("tiny/gpt-oss-24", "tiny/multilingual-thinking"),
    "finetome_llama": ("tiny/llama-3", "tiny/finetome"),
    "korean_textbooks": ("tiny/gpt-oss", "tiny/text"),
    "laptop": ("tiny/llama", str(CONFIGS / "data" / "one_line_summary.jsonl")),
    "multilingual_thinking": ("tiny/gpt-oss", "tiny/multilingual-thinking"),
    "reasoning_effort": ("tiny/gpt-oss", "tiny/multilingual-thinking"),
}
Command = Callable[..., str]


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def overrides(recipe: str) -> list[str]:
    model, data = TINY[recipe]
    values = {
        "model.name": model,
        "model.load_in_4bit": "false",
        "model.dtype": "float32",
        "model.device": "cpu",
        "dataset.path": data,
        "dataset.name": "null",  # a subset is the data's
        "training.num_train_epochs": "null",
        "training.max_steps": "2",
        "training.optim": "adamw_torch_fused",
        "evaluation.max_new_tokens": "8",
        "tracking.report_to": "none",
    }
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture
def command(recipe: str, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Give a command for the recipe from an empty folder, and return what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUSH_TO_HUB", "false")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def invoke(name: str, *arguments: str) -> str:
        config = str(CONFIGS / f"{recipe}.yaml")
        result = CliRunner().invoke(app, [name, "--config", config, *overrides, *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    yield invoke
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_every_recipe_is_tried(recipe: str) -> None:
    assert recipe in TINY


def test_a_recipe_says_what_it_is_for_and_what_it_needs(recipe: str) -> None:
    text = (CONFIGS / f"{recipe}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=../config.schema.json\n#\n# ")
    head = text.partition("\n\nmodel:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "GPU" in head
    assert f"bash train.sh {'--local ' if recipe == 'laptop' else ''}--config configs/{recipe}.yaml" in head


def test_a_recipe_writes_to_a_folder_of_its_own(recipe: str) -> None:
    loaded = load_job_config(CONFIGS / f"{recipe}.yaml")
    assert loaded.job.training.output_dir == recipe.replace("_", "-")


def test_a_recipe_runs_from_training_to_the_card(recipe: str, command: Command) -> None:
    job = load_job_config(CONFIGS / f"{recipe}.yaml").job
    run = Path("outputs") / job.training.output_dir

    command("train")
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 2
    if asked := len(job.evaluation.prompts) * len(job.evaluation.reasoning_efforts):
        samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
        assert [row["when"] for row in samples] == ["before"] * asked + ["after"] * asked

    adapter = json.loads((run / "final_model" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (job.lora.r, job.lora.alpha)

    command("evaluate", "--split", "train", "--max-samples", "2", "--output", "loss.json")
    assert json.loads(Path("loss.json").read_text())["total"]["loss"] > 0
    command("generate", "--prompt", "2 + 3?", "--max-new-tokens", "4", "--no-stream", "--output", "answers.jsonl")
    assert json.loads(Path("answers.jsonl").read_text())["tokens"] > 0
    command("merge")
    assert (run / "merged_model" / "model.safetensors").is_file()
    command("export", "--format", "portable-adapter")
    assert (run / "portable_adapter" / "adapter_model.safetensors").is_file()

    card = ModelCard.load(run / "final_model" / "README.md")
    assert set(job.hub.tags) <= set(card.data.tags)
    settings = yaml.safe_load((run / "final_model" / "job.yaml").read_text())
    assert settings["training"]["max_steps"] == 2
