"""Merged weights against PEFT's own merge on stock transformers, and how a merge is written, interrupted, refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptoss_ft.errors import ExportError, MachineError, OutputError
from gptoss_ft.merging import merge as merging
from gptoss_ft.merging.merge import MergeResult, merge
from gptoss_ft.runtime import stock_environment

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "experts": ("gpt-oss", {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "target_parameters": EXPERTS}),
    "one_layer": (
        "gpt-oss",
        {"r": 3, "use_rslora": True, "target_modules": [], "target_parameters": ["1.mlp.experts.down_proj"]},
    ),
    "saved": (
        "gpt-oss",
        {"r": 2, "target_modules": ["o_proj"], "target_parameters": EXPERTS[:1], "modules_to_save": ["lm_head"],
         "bias": "all"},
    ),
    "router": ("gpt-oss", {"r": 2, "target_modules": ["v_proj"], "target_parameters": ["mlp.router.weight"]}),
    "dora": ("llama", {"r": 4, "use_dora": True, "target_modules": ["q_proj", "down_proj"], "bias": "lora_only"}),
    "embedding": ("llama", {"r": 4, "target_modules": ["embed_tokens", "lm_head", "up_proj"]}),
    "tied": ("tied", {"r": 4, "target_modules": ["embed_tokens", "q_proj"]}),
    "still_tied": ("tied", {"r": 4, "target_modules": ["q_proj"]}),
}  # fmt: skip

Merge = Callable[..., MergeResult]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny_gpt_oss: Path, tiny_llama: Path) -> dict[str, Path]:
    tied = tmp_path_factory.mktemp("tied") / "llama"
    shutil.copytree(tiny_llama, tied)
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    weights = load_file(tied / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tied / "model.safetensors", metadata={"format": "pt"})
    return {"gpt-oss": tiny_gpt_oss, "llama": tiny_llama, "tied": tied}


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory, bases: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("references")
    cases = {name: {"base": str(bases[base]), "lora": lora} for name, (base, lora) in CASES.items()}
    (folder / "cases.json").write_text(json.dumps(cases))
    script = Path(__file__).with_name("peft_reference.py")
    child = subprocess.run(
        [sys.executable, str(script), str(folder)], env=stock_environment(), capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    return folder


@pytest.fixture
def merge_case(references: Path, bases: dict[str, Path], tmp_path: Path) -> Merge:
    def run(name: str = "experts", output: str = "merged", **options: Any) -> MergeResult:
        settings: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu"), "progress": ignore}
        adapter = references / name / "adapter"
        return merge(adapter, bases[CASES[name][0]], tmp_path / output, **(settings | options))

    return run


def ignore(*_: int) -> None:
    """A progress that nobody looks at."""


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer a shard."""
    plan = merging.plan_shards
    monkeypatch.setattr(merging, "plan_shards", lambda shapes, itemsize: plan(shapes, itemsize, 1000))


# Where embedding and head are tied and one of them is adapted, PEFT's own merge adds to both, unlike its forward.
@pytest.mark.parametrize("name", [name for name in CASES if "tied" not in name])
def test_merged_weights_are_pefts(name: str, references: Path, merge_case: Merge) -> None:
    merged = tensors_of(merge_case(name).folder)
    wanted = load_file(references / name / "merged.safetensors")
    assert merged.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert (merged[key] - tensor).abs().max() <= 1e-6, key
    rounded = tensors_of(merge_case(name, "in_16_bits", dtype=torch.bfloat16).folder)
    assert all(torch.equal(rounded[key], tensor.bfloat16()) for key, tensor in merged.items())


def test_weights_that_stay_tied_are_written_once(references: Path, merge_case: Merge) -> None:
    result = merge_case("still_tied")
    wanted = load_file(references / "still_tied" / "merged.safetensors")
    assert tensors_of(result.folder).keys() == wanted.keys() - {"lm_head.weight"}
    assert json.loads((result.folder / "config.json").read_text())["tie_word_embeddings"] is True
    untied = merge_case("tied", "untied").folder
    assert json.loads((untied / "config.json").read_text())["tie_word_embeddings"] is False


LOAD = """
import json, sys
sys.modules["unsloth"] = sys.modules["unsloth_zoo"] = None
import torch
from pathlib import Path
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
root = Path(sys.argv[1])
for name in sys.argv[2:]:
    folder = root / name
    model, report = AutoModelForCausalLM.from_pretrained(folder / "merged", output_loading_info=True)
    assert not any(report.values()), report
    assert model.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(folder / "merged").chat_template
    with torch.no_grad():
        logits = model.eval()(torch.arange(1, 49)[None]).logits[0]
        model.generate(torch.arange(1, 9)[None], max_new_tokens=2, do_sample=False)
    wanted = load_file(folder / "logits.safetensors")["logits"]
    print(json.dumps([name, (logits - wanted).abs().max().item(), wanted.abs().max().item()]))
"""


@pytest.mark.usefixtures("small_shards")
def test_stock_transformers_answers_as_the_adapter_on_its_base(references: Path, merge_case: Merge) -> None:
    names = ["experts", "saved", "dora", "tied"]
    for name in names:
        shutil.rmtree(references / name / "merged", ignore_errors=True)
        merge_case(name).folder.rename(references / name / "merged")
    child = subprocess.run(
        [sys.executable, "-c", LOAD, str(references), *names], env=stock_environment(), capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
    for line in child.stdout.splitlines():
        _, difference, largest = json.loads(line)
        assert difference <= 1e-4 < largest


class Interrupting:
    """A progress that is interrupted once `shards` are there."""

    def __init__(self, shards: int) -> None:
        self.shards = shards

    def __call__(self, there: int, *_: int) -> None:
        if there == self.shards:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_merge_goes_on_after_its_last_whole_shard(merge_case: Merge, tmp_path: Path) -> None:
    straight = merge_case(output="straight")
    assert straight.files == 5
    assert straight.shards_kept == 0
    with pytest.raises(KeyboardInterrupt):
        merge_case(progress=Interrupting(2))
    partial = tmp_path / ".merged.partial"
    assert not (tmp_path / "merged").exists()
    kept = {path: path.stat().st_mtime_ns for path in partial.glob("*.safetensors")}
    assert len(kept) == 2
    # What was being written when it was killed.
    (partial / ".model-00003-of-00005.safetensors").write_bytes(b"half")
    torn = partial / "model-00003-of-00005.safetensors"
    torn.write_bytes((straight.folder / torn.name).read_bytes()[:-7])
    result = merge_case()
    assert result.shards_kept == 2
    for path, time in kept.items():
        assert (result.folder / path.name).stat().st_mtime_ns == time
    written, wanted = (
        {file.name: file.read_bytes() for file in folder.iterdir()} for folder in (result.folder, straight.folder)
    )
    assert written == wanted
    assert not partial.exists()


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_merge_of_other_things_begins_anew(merge_case: Merge) -> None:
    with pytest.raises(KeyboardInterrupt):
        merge_case(progress=Interrupting(2))
    assert merge_case("one_layer").shards_kept == 0
    with pytest.raises(KeyboardInterrupt):
        merge_case(output="second", progress=Interrupting(2))
    assert merge_case(output="second", dtype=torch.bfloat16).shards_kept == 0


def test_an_existing_output_is_replaced_only_when_asked(merge_case: Merge, tmp_path: Path) -> None:
    first = merge_case()
    with pytest.raises(OutputError, match="merged is there already"):
        merge_case("one_layer")
    before = (first.folder / "model.safetensors").read_bytes()
    merge_case("one_layer", overwrite=True)
    assert (first.folder / "model.safetensors").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".merged.lock", "merged"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").touch()
    with pytest.raises(OutputError, match="thesis is not a merged model"):
        merge_case(output="thesis", overwrite=True)


def test_what_does_not_pass_the_last_check_is_not_kept(merge_case: Merge, tmp_path: Path) -> None:
    seen = []

    def refuse(folder: Path) -> None:
        seen.extend(path.name for path in folder.iterdir())
        raise ExportError("it answers otherwise")

    with pytest.raises(ExportError, match="it answers otherwise"):
        merge_case(finish=refuse)
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(seen)
    assert [path.name for path in tmp_path.iterdir()] == [".merged.lock"]


@pytest.mark.usefixtures("small_shards")
def test_what_could_not_be_checked_is_kept_and_checked_again(merge_case: Merge, tmp_path: Path) -> None:
    def too_small(_: Path) -> None:
        raise MachineError("too little memory")

    with pytest.raises(MachineError, match="too little memory"):
        merge_case(finish=too_small)
    assert not (tmp_path / "merged").exists()
    result = merge_case()
    assert result.shards_kept == result.files == 5


def test_too_little_disk_is_said_before_anything_is_written(
    merge_case: Merge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "free_gib", lambda _: 0.0001)
    with pytest.raises(MachineError, match=r"needs 0.0 GiB more, and 0.0 GiB are free"):
        merge_case()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_config_and_generation_config_are_those_of_a_16_bit_model(
    bases: dict[str, Path], references: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases["gpt-oss"], base)
    config = json.loads((base / "config.json").read_text())
    config |= {"unsloth_version": "2026.1", "unsloth_fixed": True, "_name_or_path": "/home/ann", "auto_map": {}}
    (base / "config.json").write_text(json.dumps(config | {"architectures": ["UnslothGptOss"]}))
    (base / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_p": 0.9}))
    result = merge(
        references / "experts/adapter", base, tmp_path / "merged",
        dtype=torch.float16, device=torch.device("cpu"), progress=ignore,
    )  # fmt: skip
    written = json.loads((result.folder / "config.json").read_text())
    assert written["architectures"] == ["GptOssForCausalLM"]
    assert written["dtype"] == written["torch_dtype"] == "float16"
    assert not {"unsloth_version", "unsloth_fixed", "_name_or_path", "auto_map"} & written.keys()
    generation = json.loads((result.folder / "generation_config.json").read_text())
    assert generation == {"temperature": 0.6, "top_p": 0.9, "do_sample": True}
    assert result.bytes == sum(tensor.nbytes for tensor in tensors_of(result.folder).values())


@pytest.fixture
def adapter(references: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the adapter `experts`, to break."""
    folder = tmp_path / "adapter"
    shutil.copytree(references / "experts/adapter", folder)
    yield folder


def test_values_that_are_not_finite_are_refused(adapter: Path, bases: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    options: dict[str, Any] = {"device": torch.device("cpu"), "progress": ignore}
    name = next(name for name in weights if "experts.lora_B" in name)
    save_file(weights | {name: weights[name] * 1e7}, adapter / "adapter_model.safetensors")
    with pytest.raises(ExportError, match="has values that float16 does not hold"):
        merge(adapter, bases["gpt-oss"], tmp_path / "merged", dtype=torch.float16, **options)
    save_file(weights | {name: weights[name] * torch.nan}, adapter / "adapter_model.safetensors")
    with pytest.raises(ExportError, match="the adapter holds values that are not finite"):
        merge(adapter, bases["gpt-oss"], tmp_path / "merged", dtype=torch.float32, **options)
    assert not (tmp_path / "merged").exists()
