"""What the model card's template is given; docs/after_training.md lists it."""

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from gptoss_ft.config import DatasetSection, JobConfig
from gptoss_ft.hub_errors import explained
from gptoss_ft.publishing.licences import licence_of_model, licence_on_hub
from gptoss_ft.publishing.public_job import hub_id, public_job, shown_name
from gptoss_ft.publishing.run_facts import RunFacts
from gptoss_ft.runtime import output_root

Kind = Literal["adapter", "merged"]

HUB = "https://huggingface.co"
# Lines of the table of losses.
LOSS_LINES = 12
# Experts one by one, as Unsloth holds them in 4 bits; stock models hold them as one parameter.
SPLIT_EXPERTS = re.compile(r"\.experts\.(?:gate_up_projs|down_projs)\.\d+\.")


def card_values(folder: Path, facts: RunFacts, job: JobConfig, kind: Kind, repo_id: str | None) -> dict[str, Any]:
    """Every value by its name in a template. What is not known of the run is None or empty."""
    manifest = facts.manifest or {}
    adapter = _json(folder / "adapter_config.json")
    base = _base(adapter, job, manifest)
    is_portable = kind == "merged" or not _has_split_experts(folder / "adapter_model.safetensors")
    name = Path(job.training.output_dir).name
    template = folder / "chat_template.jinja"
    return {
        "kind": kind,
        "title": repo_id.partition("/")[2] if repo_id else name,
        "repo_id": repo_id,
        "model_path": repo_id or _place(folder),
        "base": base,
        "licence": job.hub.license or (licence_of_model(base["id"]) if base["id"] else None),
        "tags": job.hub.tags,
        "data_sets": [_data_set(*entry) for entry in zip(job.datasets, _sources(manifest, job), strict=True)],
        "data": _data(manifest),
        "lora": job.lora.model_dump(),
        "training": job.training.model_dump(),
        "max_seq_length": job.model.max_seq_length,
        "load_in_4bit": job.model.load_in_4bit,
        "starts_from": shown_name(job.model.adapter),
        "parameters": _parameters(manifest),
        "steps": facts.records[-1]["step"] if facts.records else None,
        "losses": _course(facts.records),
        "evaluation": _evaluation(facts.evaluation),
        "answers": _answers(facts.answers),
        "memory": facts.memory,
        "dtype": _dtype(folder) if kind == "merged" else None,
        "size": _size(sum(file.stat().st_size for file in folder.glob("*.safetensors"))),
        "versions": manifest.get("versions", {}),
        "code": manifest.get("code"),
        "config": _as_yaml(job),
        "takes_effort": template.is_file() and "reasoning_effort" in template.read_text(encoding="utf-8"),
        "effort": _effort(job),
        "is_portable": is_portable,
        # Unsloth holds experts one by one in 4 bits, where PEFT's own form of their LoRA finds no place.
        "loads_in_unsloth": kind == "merged" or not (is_portable and adapter.get("target_parameters")),
    }


def _place(folder: Path) -> str:
    """Where code finds the model, from the project's folder: outputs/NAME/final_model; elsewhere the folder's name
    alone."""
    place, root = folder.resolve(), output_root().resolve()
    place = place.with_name(place.name.removeprefix(".").removesuffix(".partial"))
    return f"outputs/{place.relative_to(root).as_posix()}" if place.is_relative_to(root) else place.name


def _dtype(folder: Path) -> str | None:
    """What a whole model's config.json says that its weights are in; transformers 4 wrote it as torch_dtype."""
    config = _json(folder / "config.json")
    return config.get("dtype") or config.get("torch_dtype")


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _base(adapter: Mapping[str, Any], job: JobConfig, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The model that an adapter goes on: the one that its own file names, if that is on the hub."""
    stock = hub_id(adapter.get("base_model_name_or_path") or "")
    identifier = stock or hub_id(job.model.name)
    name = identifier or shown_name(job.model.name)
    return {
        "id": identifier,
        "name": name,
        "url": f"{HUB}/{identifier}" if identifier else None,
        "loaded": shown_name(str(manifest.get("model", {}).get("repository") or job.model.name)),
        "commit": manifest.get("model", {}).get("commit"),
        "is_gpt_oss": re.search(r"gpt-oss-\d+b", (identifier or "").lower()) is not None,
        # Published weights packed in MXFP4, which no adapter on experts goes on; uploads in 16 bits are named so.
        "is_mxfp4": re.search(r"gpt-oss-\d+b$", (identifier or "").lower()) is not None,
    }


def _sources(manifest: Mapping[str, Any], job: JobConfig) -> Sequence[Mapping[str, Any] | None]:
    """What the run counted of each entry of `dataset`; None where that is not known."""
    sources: Sequence[Mapping[str, Any]] = manifest.get("data", {}).get("sources", ())
    return sources if len(sources) == len(job.datasets) else [None] * len(job.datasets)


def _data_set(entry: DatasetSection, source: Mapping[str, Any] | None) -> dict[str, Any]:
    identifier = None if entry.prepared else hub_id(entry.path)
    # The fingerprint of what came from the hub begins with its name: a folder here may be named like a repository.
    if source is not None and not source["fingerprint"].startswith(f"{entry.path}:"):
        identifier = None
    return {
        "id": identifier,
        "name": identifier or shown_name(entry.prepared) or Path(entry.path).name,
        "url": f"{HUB}/datasets/{identifier}" if identifier else None,
        "licence": licence_on_hub(identifier, "dataset") if identifier else None,
        "subset": entry.name,
        "split": entry.split,
        "rows": source["rows"] if source else None,
        "kept": source["kept"] if source else None,
        "eval": entry.eval,
    }


def _data(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    data = manifest.get("data")
    if not data or "train" not in data:
        return None
    return {"rows": data["rows"], "train": data["train"], "eval": data["eval"]}


def _parameters(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    model = manifest.get("model", {})
    if not model.get("total"):
        return None
    return {**model, "percent": 100 * model["trainable"] / model["total"]}


def _course(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first and the last record, and some between them at even distances."""
    if len(records) <= LOSS_LINES:
        return list(records)
    last = len(records) - 1
    return [records[round(index * last / (LOSS_LINES - 1))] for index in range(LOSS_LINES)]


def _evaluation(content: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`rows`: the loss of all trained tokens, then by channel where there are several."""
    if content is None or "total" not in content:
        return None
    rows = [{"name": None, **content["total"]}]
    rows += [{"name": name, **loss} for name, loss in content.get("channels", {}).items()]
    return {"samples": content.get("samples"), "rows": rows, "has_base": "base_loss" in content["total"]}


def _answers(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The answers before and after training to the same question at the same effort, side by side; `text` of each is
    what it says, calls and says out of its format, else what it thought."""
    pairs: dict[tuple[Any, Any], dict[str, Any]] = {}
    for row in rows:
        prompt, effort = row.get("prompt"), row.get("effort")
        pair = pairs.setdefault((prompt, effort), {"prompt": prompt, "effort": effort, "before": None, "after": None})
        pair[str(row.get("when"))] = {**row, "text": _said(row) or row.get("analysis")}
    return list(pairs.values())


def _said(row: Mapping[str, Any]) -> str:
    """An answer, its calls of tools, each on a line, and what could not be read."""
    calls = [f"{call['name']}({call['arguments']})" for call in row.get("calls") or ()]
    return "\n".join(part for part in (row.get("answer"), *calls, row.get("unread")) if part)


def _size(count: int) -> str:
    """Bytes as `13.8 GB` or `27.1 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _effort(job: JobConfig) -> str:
    """The effort to ask at: the one trained at, unless that is a column of the data."""
    effort = job.datasets[0].reasoning_effort
    return effort if effort in ("low", "medium", "high") else "medium"


def _as_yaml(job: JobConfig) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared as None, read as a bool
    stream = io.StringIO()
    yaml.dump(public_job(job).model_dump(mode="json"), stream)
    return stream.getvalue()


def _has_split_experts(weights: Path) -> bool:
    if not weights.is_file():
        return False
    from safetensors import safe_open

    with explained(str(weights), "model.adapter"), safe_open(weights, "np") as tensors:
        return any(SPLIT_EXPERTS.search(name) for name in tensors.keys())  # noqa: SIM118  # not a mapping
