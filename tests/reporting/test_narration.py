"""What is told on the screen of a job."""

from io import StringIO
from pathlib import Path

from gptoss_ft.config import load_job_config
from gptoss_ft.reporting.console import make_console
from gptoss_ft.reporting.narration import show_config


def shown(folder: Path, text: str) -> list[str]:
    config = folder / "config.yaml"
    config.write_text(text)
    stream = StringIO()
    show_config(make_console(stream), load_job_config(config))
    return [" ".join(line.split()) for line in stream.getvalue().splitlines()]


def test_one_data_set_is_one_section(tmp_path: Path) -> None:
    lines = shown(tmp_path, "dataset: {path: a, rename_columns: {q: instruction}}\n")
    assert [line for line in lines if line.startswith("dataset")] == ["dataset"]
    assert lines[lines.index("dataset") + 1] == "path a"
    assert "rename_columns {'q': 'instruction'}" in lines


def test_each_entry_of_a_list_is_a_section(tmp_path: Path) -> None:
    lines = shown(tmp_path, "dataset:\n- path: a\n- path: b\n  eval: true\n")
    assert [line for line in lines if line.startswith("dataset")] == ["dataset[0]", "dataset[1]"]
    assert lines[lines.index("dataset[0]") + 1] == "path a"
    assert lines[lines.index("dataset[1]") + 1] == "path b"
    assert "eval true" in lines[lines.index("dataset[1]") :]
    assert lines.index("lora") < lines.index("dataset[0]") < lines.index("training")
