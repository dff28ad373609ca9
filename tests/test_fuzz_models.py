"""Folders given as --model whose adapter_config.json or config.json is broken: used, or refused with an exit code."""

import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from broken_json import broken

from gptoss_ft.config import DatasetSection, JobConfig, LoraSection, ModelSection
from gptoss_ft.errors import JobError
from gptoss_ft.merging.adapter_places import read_settings
from gptoss_ft.merging.stock_model import read_config, stock_model
from gptoss_ft.model.lora import check_existing
from gptoss_ft.model.repository import find_repository, stock_name
from gptoss_ft.planning.shapes import read_shapes
from gptoss_ft.publishing.export import check_export
from gptoss_ft.subject import find_subject

ADAPTER: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny/llama", "r": 8, "lora_alpha": 16,
    "lora_dropout": 0.0, "bias": "none", "target_modules": ["q_proj", "v_proj"], "target_parameters": None,
    "modules_to_save": None, "use_rslora": False, "use_dora": False, "rank_pattern": {}, "inference_mode": True,
}  # fmt: skip
FILES = 1_000


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("model: {name: tiny/llama, load_in_4bit: false, device: cpu}\n", encoding="utf-8")
    before = signal.signal(signal.SIGALRM, _too_long)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _too_long(*_: object) -> None:
    raise AssertionError("reading takes more than 20 seconds")


def outcomes(file: Path, good: dict[str, Any], files: int, *uses: Callable[[], object]) -> Counter[str]:
    """How often `uses` went well (`used`), and ended with which exit code, for as many broken versions of `file`."""
    counts: Counter[str] = Counter()
    for seed in range(files):
        file.write_bytes(broken(good, Random(seed)))
        for use in uses:
            signal.alarm(20)
            try:
                use()
            except JobError as error:
                assert error.message, seed
                counts[error.exit_code.name] += 1
            else:
                counts["used"] += 1
    return counts


def test_a_broken_adapter_config_is_used_or_refused() -> None:
    folder = Path("adapter")
    folder.mkdir()
    counts = outcomes(
        folder / "adapter_config.json", ADAPTER, FILES,
        lambda: find_subject("./adapter", None, []),
        lambda: read_settings(folder),
        lambda: check_existing("./adapter", LoraSection(alpha=16)),
    )  # fmt: skip
    assert counts.total() == 3 * FILES
    assert set(counts) == {"used", "DATA", "EXPORT"}
    assert min(counts["used"], counts["DATA"]) > FILES // 5


def test_a_broken_config_json_is_used_or_refused(tiny_llama: Path) -> None:
    folder = Path("model")
    shutil.copytree(tiny_llama, folder)
    good = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = ModelSection(name="./model", load_in_4bit=False, max_seq_length=64, device="cpu")
    job = JobConfig(model=model, dataset=DatasetSection(path="tiny/text"))
    counts = outcomes(
        folder / "config.json", good, FILES,
        lambda: find_subject("./model", None, []),
        lambda: stock_name(model),
        lambda: read_shapes(job, "./model"),
        lambda: read_config(folder),
        lambda: find_repository(model),
    )  # fmt: skip
    assert counts.total() == 5 * FILES
    assert set(counts) == {"used", "CONFIG", "DATA"}
    assert min(counts["used"], counts["DATA"]) > FILES // 5


def test_a_broken_config_json_is_checked_or_refused(tiny_llama: Path) -> None:
    folder = Path("model")
    shutil.copytree(tiny_llama, folder)
    good = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    counts = outcomes(
        folder / "config.json", good, FILES // 10,
        lambda: stock_model(folder),
        lambda: check_export(find_subject("./model", None, []), "gguf"),
        lambda: check_export(find_subject("./model", None, []), "vllm"),
    )  # fmt: skip
    assert counts.total() == 3 * FILES // 10
    assert set(counts) == {"used", "DATA", "EXPORT"}
