"""The embedded default is the same on every run, survives races, and says what it has."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_ft import tiny
from gptoss_ft.errors import ConfigError, MachineError

ROOT = Path(__file__).parents[2]
MODEL_FILES = {
    "config.json",
    "model.safetensors",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
}
MATERIALIZE_ALL = """
import sys
from pathlib import Path
{seeds}
from gptoss_ft import tiny
for name in tiny.MODELS + tiny.DATASETS:
    tiny.materialize(name, Path(sys.argv[1]))
"""
GLOBAL_SEEDS = "import random, numpy; random.seed({0}); numpy.random.seed({0})"


def start(program: str, cache: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(cache)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


def digests(cache: Path) -> dict[str, str]:
    return {
        str(path.relative_to(cache)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in cache.rglob("*")
        if path.is_file()
    }


def test_every_byte_is_the_same_in_another_process(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    processes = [
        start(MATERIALIZE_ALL.format(seeds=GLOBAL_SEEDS.format(1)), one, PYTHONHASHSEED="1", RAYON_NUM_THREADS="1"),
        start(MATERIALIZE_ALL.format(seeds=GLOBAL_SEEDS.format(2)), two, PYTHONHASHSEED="2", RAYON_NUM_THREADS="7"),
    ]
    for process in processes:
        finish(process)
    assert len(digests(one)) == len(tiny.MODELS) * len(MODEL_FILES) + len(tiny.DATASETS)
    assert digests(one) == digests(two)


@pytest.mark.parametrize(("name", "digest"), [("tiny/gpt-oss", "0a23f527cb62"), ("tiny/llama", "5136fcfd4acf")])
def test_the_bytes_are_those_that_figures_were_measured_with(name: str, digest: str, tmp_path: Path) -> None:
    assert tiny.materialize(name, tmp_path).name == f"{name.removeprefix('tiny/')}-{digest}"


def test_processes_that_materialize_at_once_leave_one_copy_and_no_litter(tmp_path: Path) -> None:
    program = MATERIALIZE_ALL.format(seeds="")
    for process in [start(program, tmp_path) for _ in range(4)]:
        finish(process)
    entries = [path.name for path in (tmp_path / "tiny").iterdir()]
    assert sorted(name.rsplit("-", 1)[0] for name in entries) == [
        "finetome", "gpt-oss", "gpt-oss-24", "llama", "llama-3", "multilingual-thinking", "text"
    ]  # fmt: skip


def test_a_process_that_comes_second_to_the_rename_takes_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race itself: another process finishes the folder after this one has looked and before it renames."""
    rename = Path.rename

    def beaten(beside: Path, final: Path) -> Path:
        shutil.copytree(beside, final)
        return rename(beside, final)

    monkeypatch.setattr(Path, "rename", beaten)
    folder = tiny.materialize("tiny/gpt-oss", tmp_path)
    assert {path.name for path in folder.iterdir()} == MODEL_FILES
    assert list((tmp_path / "tiny").iterdir()) == [folder]


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    first = tiny.materialize("tiny/gpt-oss", tmp_path)
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert tiny.materialize("tiny/gpt-oss", tmp_path) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written


def test_a_changed_recipe_is_made_beside_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gptoss_ft.tiny import tokenizer

    old = tiny.materialize("tiny/llama", tmp_path)
    monkeypatch.setattr(tokenizer, "CHATML_TEMPLATE", "{{ messages }}")
    new = tiny.materialize("tiny/llama", tmp_path)
    assert new != old
    assert (new / "chat_template.jinja").read_text() == "{{ messages }}"


@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_model_folder_holds_what_a_hub_repository_holds(name: str, tmp_path: Path) -> None:
    assert {path.name for path in tiny.materialize(name, tmp_path).iterdir()} == MODEL_FILES


def test_names() -> None:
    assert all(tiny.is_tiny(name) for name in (*tiny.MODELS, *tiny.DATASETS, "tiny/unknown"))
    assert not any(tiny.is_tiny(name) for name in ("openai/gpt-oss-20b", "./tiny/rows.jsonl", "tiny", "tiny-org/model"))


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny.materialize("tiny/gpt-os", tmp_path)
    assert caught.value.message == "tiny/gpt-os: is not an embedded name"
    for name in (*tiny.MODELS, *tiny.DATASETS):
        assert name in caught.value.cure


def test_a_cache_that_is_a_file_is_the_machines_error(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_text("")
    with pytest.raises(MachineError, match="tiny/text cannot be written to"):
        tiny.materialize("tiny/text", cache)


def test_nothing_is_imported_that_unsloth_must_come_before(tmp_path: Path) -> None:
    program = MATERIALIZE_ALL.format(seeds="") + (
        "print([name for name in ('torch', 'transformers', 'trl', 'peft', 'unsloth') if name in sys.modules])"
    )
    assert finish(start(program, tmp_path)) == "[]\n"
