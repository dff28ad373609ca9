"""What a command that comes after training works on: a base model, a checkpoint, final_model, or a merged model.

`--model` takes `base`, `final_model`, `merged_model`, `checkpoint-N` (of the config's output folder), a folder or a
hub id. Without `--config` the job is that of the job.yaml beside the model, else of config.yaml.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from gptoss_ft.config import (
    JOB_FILE,
    JobConfig,
    LoadedConfig,
    LoraSection,
    ModelSection,
    find_job_file,
    load_job_config,
)
from gptoss_ft.errors import DataError, HubError, OutputError, SettingError
from gptoss_ft.foreign_adapter import ADAPTER_CONFIG, lora_of
from gptoss_ft.hub_client import fetch_snapshot
from gptoss_ft.hub_errors import explained
from gptoss_ft.model.repository import MODEL_FILES
from gptoss_ft.reporting.checkpoint_folder import CHECKPOINT
from gptoss_ft.reporting.console import counted, quiet_libraries
from gptoss_ft.reporting.in_use import in_use
from gptoss_ft.reporting.manifest import NAME as MANIFEST
from gptoss_ft.reporting.output_folder import FINAL_MODEL, MERGED_MODEL, folder_of
from gptoss_ft.runtime import (
    Device,
    cache_folder,
    find_device,
    import_unsloth,
    named_folder,
    prepare_environment,
)

if TYPE_CHECKING:  # Unsloth must come before transformers
    from transformers import PreTrainedTokenizerBase

CHECKPOINT_NAME = re.compile(rf"{CHECKPOINT}(\d+)")
PROJECT_CONFIG = Path(__file__).parents[1] / "config.yaml"


@dataclass(frozen=True)
class Subject:
    """A model to use. `loaded.job` is the job it belongs to: `model` its base model, or for `merged` the whole
    model's folder in 16 bits; `lora` the adapter's own settings. `folder` holds adapter or merged model, None for a
    base model; `name` is what a person calls it."""

    kind: Literal["base", "adapter", "merged"]
    name: str
    folder: Path | None
    loaded: LoadedConfig

    @property
    def job(self) -> JobConfig:
        return self.loaded.job

    def on_base(self, base: ModelSection) -> "Subject":
        """The same adapter on the weights that `base` loads."""
        model = base.model_copy(update={"adapter": str(self.folder)})
        return self.with_job(self.job.model_copy(update={"model": model}))

    def with_job(self, job: JobConfig) -> "Subject":
        return replace(self, loaded=replace(self.loaded, job=job))

    def trained_by(self) -> JobConfig | None:
        """The job of the job.yaml beside it; None where nothing was trained, or nothing says how."""
        job_file = find_job_file(self.folder) if self.folder is not None else None
        return load_job_config(job_file).job if job_file is not None else None

    def own_job(self) -> JobConfig:
        """The job that made it, with the hub's settings of the config in use: they may have changed since."""
        trained_by = self.trained_by()
        if trained_by is not None:
            return trained_by.model_copy(update={"hub": self.job.hub})
        # Its own folder stands in `job` as the adapter to load, not as one that training went on from.
        return self.job.model_copy(update={"model": self.job.model.model_copy(update={"adapter": None})})

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """No `train --restart` moves the run's folder that it lies in for as long as this lasts."""
        run = self.folder.absolute().parent if self.folder is not None else None
        with in_use(run) if run is not None and (run / MANIFEST).is_file() else nullcontext():
            yield

    def require_adapter(self) -> Path:
        """The adapter's folder; `SettingError` where this is a whole model."""
        if self.kind != "adapter" or self.folder is None:
            raise SettingError(
                f"{self.name} is a whole model, without an adapter", "Name an adapter with --model.", "model.name"
            )
        return self.folder

    def beside(self, name: str) -> Path:
        """The folder `name` in the run that the adapter lies in; `SettingError` where it lies in none."""
        run = self.require_adapter().parent
        if not (run / JOB_FILE).is_file():
            raise SettingError(f"{self.name} is in no run's folder", "Say with --output where to write.")
        return run / name


@dataclass(frozen=True)
class Ready:
    """A subject in memory: Unsloth's model (with its adapter on), the tokenizer, and the device."""

    model: Any
    tokenizer: "PreTrainedTokenizerBase"
    device: Device


def find_subject(model: str | None, config: Path | None, overrides: Sequence[str]) -> Subject:
    """What `--model`, `--config` and `--set` mean together; None for a model is the config's final_model. Downloads
    what is named by its hub id, unless it is a base model. Raises `JobError`."""
    if model is None or model in ("base", FINAL_MODEL, MERGED_MODEL) or CHECKPOINT_NAME.fullmatch(model):
        return _of_config(model or FINAL_MODEL, config, overrides)
    folder = named_folder(model)
    if not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        downloaded = _downloaded(model)
        if downloaded is None:
            loaded = _load(config, overrides)
            return Subject("base", model, None, _with_model(loaded, name=model, revision=None, adapter=None))
        folder = downloaded
    if not model or not folder.is_dir():
        raise OutputError(
            f"{model} is a file, not a folder" if folder.is_file() else f"there is no folder {model or repr(model)}",
            f"Name a folder, a hub id, base, {FINAL_MODEL}, {MERGED_MODEL} or {CHECKPOINT}N.",
        )
    return _of_folder(model, folder, config, overrides)


def _load(config: Path | None, overrides: Sequence[str]) -> LoadedConfig:
    here = Path("config.yaml")
    return load_job_config(config or (here if here.is_file() else PROJECT_CONFIG), overrides)


def _of_config(model: str, config: Path | None, overrides: Sequence[str]) -> Subject:
    """A model of the config's output folder; without `--config` the config only says which folder that is."""
    loaded = _load(config, overrides)
    run = folder_of(loaded.job)
    if model == "base":
        own = find_job_file(run) if config is None else None
        loaded = load_job_config(own, overrides) if own is not None else loaded
        return Subject("base", loaded.job.model.name, None, _with_model(loaded, adapter=None))
    if not (run / model).is_dir():
        raise OutputError(f"there is no {run / model}", _instead_of(model, run), key="training.output_dir")
    return _of_folder(str(run / model), run / model, config, overrides)


def _instead_of(model: str, run: Path) -> str:
    """What to do where a model is not in a run's folder."""
    there = models_in(run)
    if model == MERGED_MODEL and there:
        return "Merge first, with the command merge."
    if there:
        return f"There are {', '.join(there)}."
    return "Train first, or say with --model what to use."


def models_in(run: Path) -> list[str]:
    """The names of the models in a run's folder: final_model, merged_model, then the checkpoints, newest first."""
    names = [name for name in (FINAL_MODEL, MERGED_MODEL) if (run / name).is_dir()]
    steps = [int(found[1]) for path in run.glob(f"{CHECKPOINT}*") if (found := CHECKPOINT_NAME.fullmatch(path.name))]
    return names + [f"{CHECKPOINT}{step}" for step in sorted(steps, reverse=True)]


def _of_folder(name: str, folder: Path, config: Path | None, overrides: Sequence[str]) -> Subject:
    job_file = find_job_file(folder)
    loaded = _load(config or job_file, overrides)
    if (folder / ADAPTER_CONFIG).is_file():
        _refuse_lora_settings(name, loaded)
        lora = lora_of(folder) if job_file is None else _own_lora(name, job_file, loaded)
        loaded = replace(loaded, job=loaded.job.model_copy(update={"lora": lora}))
        return Subject("adapter", name, folder, _with_model(loaded, adapter=str(folder)))
    if (folder / "config.json").is_file():
        whole = _with_model(loaded, name=str(folder), revision=None, load_in_4bit=False, adapter=None)
        return Subject("merged", name, folder, whole)
    if found := models_in(folder):
        raise DataError(
            f"{folder} is a run's folder, which holds {counted(len(found), 'model')}",
            f"Name one of them: {', '.join(str(folder / name) for name in found)}.",
        )
    raise DataError(
        f"{folder} holds neither {ADAPTER_CONFIG} nor config.json",
        "Name the folder of an adapter or of a whole model.",
    )


def _refuse_lora_settings(name: str, loaded: LoadedConfig) -> None:
    given = [key for key in loaded.source.overrides if key.startswith("lora.")]
    if given:
        raise SettingError(
            f"--set {given[0]} has no effect: {name} is trained, and its own settings count", "Leave it out.", given[0]
        )


def _own_lora(name: str, job_file: Path, loaded: LoadedConfig) -> LoraSection:
    """The settings that the adapter was trained with. `SettingError` where the config in use is of another base."""
    own, used = load_job_config(job_file).job, loaded.job.model.name
    # What --set names was meant: a base model's folder may have moved.
    if own.model.name != used and "model.name" not in loaded.source.overrides:
        raise SettingError(
            f"read {used}, but {name} was trained on {own.model.name}",
            f"Leave --config out: {job_file} is the adapter's own.",
            key="model.name",
        )
    return own.lora


def _with_model(loaded: LoadedConfig, **changes: Any) -> LoadedConfig:
    model = loaded.job.model.model_copy(update=changes)
    return replace(loaded, job=loaded.job.model_copy(update={"model": model}))


def _downloaded(repo_id: str) -> Path | None:
    """The folder of an adapter or of a merged model on the hub, which both have a job.yaml or an adapter_config.json;
    None where the repository holds a base model."""
    prepare_environment()
    try:
        with explained(repo_id, ""):
            words = fetch_snapshot(
                repo_id, allow_patterns=["adapter_*", "*.json", "*.jinja", JOB_FILE], ignore_patterns=["*.bin"]
            )
            if (words / ADAPTER_CONFIG).is_file():
                return words
            return fetch_snapshot(repo_id, **MODEL_FILES) if (words / JOB_FILE).is_file() else None
    except HubError as error:
        raise HubError(f"{error.message}; and there is no folder {repo_id}", error.cure, error.key) from None


@contextmanager
def in_memory(subject: Subject, console: Console) -> Iterator[Ready]:
    """Load a subject through Unsloth, as training does; what libraries say goes to the cache's libraries.log."""
    prepare_environment()
    device = find_device(subject.job.model.device)
    cache_folder().mkdir(parents=True, exist_ok=True)
    with quiet_libraries(cache_folder() / "libraries.log"):
        import_unsloth(device)
        from gptoss_ft.data.tokenizer import load_job_tokenizer
        from gptoss_ft.model.building import build_model
        from gptoss_ft.model.loading import fetch, load_base
        from gptoss_ft.model.repository import find_repository

        job = subject.job
        tokenizer = load_job_tokenizer(job.model)
        repository = find_repository(job.model)
        if subject.kind == "adapter":
            model = build_model(job, repository, device, console)
        else:
            fetch(job.model, repository, console)
            model = load_base(job.model, repository, device, job.training)
        yield Ready(model, tokenizer, device)
