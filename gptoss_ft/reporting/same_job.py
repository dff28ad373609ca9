"""What makes two runs the same job: the settings that decide what is trained, the rows, the base weights, the code.

A run goes on from another's checkpoint only where none of that changed, or where each change is allowed by its key.
"""

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from gptoss_ft.config import JobConfig
from gptoss_ft.config.schema import SECTIONS
from gptoss_ft.config.words import shown_value
from gptoss_ft.errors import OutputError

CODE = "code"
DATA = "data"
REVISION = "model.revision"
# These change no weight of what is trained: how a step is computed, what is shown and kept, where and how long.
FREE_SECTIONS = frozenset({"performance", "evaluation", "tracking", "hub"})
FREE_KEYS = frozenset(
    f"training.{key}"
    for key in (
        "gradient_checkpointing", "logging_steps", "save_total_limit", "output_dir", "on_nonfinite",
        "max_skipped_steps", "loss_alarm", "grace_seconds", "time_limit",
    )
)  # fmt: skip
# Which checkpoints there are decides the final model only where the best of them is looked for.
FREE_WITHOUT_EVALUATION = "training.save_steps"
# The keys of what a config leaves to the machine, by its name in the manifest.
RESOLVED_KEYS = {"dtype": "model.dtype", "optimizer": "training.optim"}
# With another value of these a checkpoint's adapter or optimizer state does not fit.
UNFIT_KEYS = frozenset(
    {
        "lora.r", "lora.bias", "lora.target_modules", "lora.target_parameters", "lora.use_dora", "lora.modules_to_save",
        "training.optim",
    }
)  # fmt: skip
# Where one of these changed, so may the rows, or which of them are held out.
OF_THE_ROWS = ("dataset", "model", "training.seed")


@dataclass(frozen=True)
class Change:
    """One difference between a run and the one that it goes on from. `key` is the config's (`dataset[1].path`), or
    `code` or `data` and what of it; the values are in words. What is `free` needs no permission."""

    key: str
    before: str
    now: str
    free: bool = False

    def __str__(self) -> str:
        return f"{self.key}: {self.before} → {self.now}"

    def as_facts(self) -> dict[str, str]:
        facts = asdict(self)
        del facts["free"]
        return facts

    def is_covered_by(self, keys: Collection[str]) -> bool:
        """Whether one of `keys` names it, its section or its entry."""
        return any(self.key == key or self.key.startswith((f"{key}.", f"{key}[", f"{key} ")) for key in keys)


def config_changes(before: Mapping[str, Any], job: JobConfig) -> list[Change]:
    """What differs between the config of a manifest and this job's. A key that the manifest lacks had its default."""
    now = job.model_dump(mode="json")
    free = FREE_KEYS if job.training.eval_steps is not None else FREE_KEYS | {FREE_WITHOUT_EVALUATION}
    return [
        change
        for section, model in SECTIONS.items()
        for change in _section_changes(
            section,
            [{**model.model_construct().model_dump(mode="json"), **old} for old in _entries(before.get(section, {}))],
            now[section],
            free,
        )
    ]


def code_changes(manifest: Mapping[str, Any], code: Mapping[str, Any], versions: Mapping[str, str]) -> list[Change]:
    """The versions of this package and of the libraries that compute, which need permission; and the commit, the image
    and the lock, which do not: most commits change no number, and who has to allow each of them reads none."""
    before = _mapping(manifest.get("code"))
    of_versions = {"gptoss_ft": code["gptoss_ft"], **versions}
    were = {"gptoss_ft": before.get("gptoss_ft"), **_mapping(manifest.get("versions"))}
    return [
        Change(f"{CODE} {name}", _word(were.get(name)), _word(version))
        for name, version in of_versions.items()
        if were.get(name) != version
    ] + [
        Change(f"{CODE} {name}", _word(before.get(name)), _word(code[name]), free=True)
        for name in ("commit", "image", "lock_sha256")
        if before.get(name) != code[name]
    ]


def data_changes(manifest: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> list[Change]:
    """Whether the run saw other tokens, whatever their source's name; `facts` as in the manifest. None: it is the
    first."""
    if manifest is None or _mapping(manifest.get("data")).get("sha256") == facts["sha256"]:
        return []
    return [Change(DATA, _data_in_words(_mapping(manifest.get("data"))), _data_in_words(facts))]


def weights_changes(manifest: Mapping[str, Any] | None, commit: str | None) -> list[Change]:
    """Whether the base weights on the hub are of another commit; None: no hub's, or the first run."""
    before = _mapping((manifest or {}).get("model")).get("commit")
    if commit is None or before is None or before == commit:
        return []
    return [Change(REVISION, _word(before), _word(commit))]


def resolved_changes(manifest: Mapping[str, Any] | None, resolved: Mapping[str, str]) -> list[Change]:
    """Whether this machine makes another `dtype` or `optimizer` of the same config; `resolved` as in the
    manifest, which may lack it. Another optimizer's state does not fit."""
    before = _mapping((manifest or {}).get("resolved"))
    return [
        Change(key, f"resolved as {_word(before[name])}", f"resolved as {_word(resolved[name])}")
        for name, key in RESOLVED_KEYS.items()
        if name in before and before[name] != resolved[name]
    ]


def refuse_changes(
    path: Path, changes: Sequence[Change], allowed: Collection[str], began: str, place: str | None
) -> None:
    """Raise `OutputError` where one of `changes` needs a permission that `allowed` does not give; `place` is the key
    that it is shown with, None where the job in `path` was named by `--from`."""
    allowed = {*allowed, DATA} if _decide_rows(changes, allowed) else set(allowed)
    refused = [one for one in changes if not one.free and (one.key in UNFIT_KEYS or not one.is_covered_by(allowed))]
    if not refused:
        return
    unfit = [change.key for change in refused if change.key in UNFIT_KEYS]
    keys = dict.fromkeys(change.key.split()[0] for change in refused)
    # A shell takes the brackets of `dataset[1].path` for a pattern.
    options = " ".join(f"--allow-changed {shlex.quote(key)}" for key in keys)
    go_on = f"pass {options} to go on with what it is now, " if not unfit else ""
    reason = f" The checkpoints' weights or optimizer state do not fit another {' or '.join(unfit)}." if unfit else ""
    aside = "pass --restart to keep the folder aside and train again, or set training.output_dir to another folder"
    otherwise = "or name a checkpoint of this job with --from" if place is None else aside
    raise OutputError(
        f"{path} holds a job that began {began}; since then this changed:\n"
        + "\n".join(f"  {change}" for change in refused),
        f"Set it back, {go_on}{otherwise}.{reason}",
        place or "",
    )


def _decide_rows(changes: Sequence[Change], allowed: Collection[str]) -> bool:
    return any(change.is_covered_by(OF_THE_ROWS) and change.is_covered_by(allowed) for change in changes)


def _section_changes(
    section: str, were: Sequence[Mapping[str, Any]], now: Any, free_keys: Collection[str]
) -> Iterator[Change]:
    """Of a section's entries: one, but for data sets, a list of one of which is the same as it alone."""
    is_list = isinstance(now, list) or len(were) > 1
    for index, (old, new) in enumerate(zip_longest(were, _entries(now))):
        owner = f"{section}[{index}]" if is_list else section
        if old is None or new is None:
            yield Change(owner, _entry_in_words(old), _entry_in_words(new))
            continue
        for key, value in new.items():
            if old[key] != value:
                free = section in FREE_SECTIONS or f"{section}.{key}" in free_keys
                yield Change(f"{owner}.{key}", shown_value(old[key], key), shown_value(value, key), free)


def _entries(section: Any) -> list[Any]:
    return section if isinstance(section, list) else [section]


def _entry_in_words(entry: Mapping[str, Any] | None) -> str:
    return "none" if entry is None else shown_value(entry["path"])


def _data_in_words(facts: Mapping[str, Any]) -> str:
    return f"{facts.get('rows')} rows, {facts.get('samples')} samples, sha256 {_word(facts.get('sha256'))}"


def _word(value: Any) -> str:
    """A version as it is, a hash's beginning."""
    text = "none" if value is None else str(value)
    return text[:12] if len(text) > 30 else text


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
