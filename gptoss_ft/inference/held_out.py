"""Whether rows that a job holds out were held out from a model's training as well.

Which rows an entry holds out depends on the rows that are left of it, so on nearly all of its settings, on its place in
the list and on the seed. A model says in the job.yaml beside it what it was trained on.
"""

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from gptoss_ft.config import DatasetSection, JobConfig
from gptoss_ft.errors import SettingError
from gptoss_ft.subject import Subject

# They decide nothing about which rows are held out.
WITHOUT_EFFECT = {"weight", "max_invalid_fraction"}
# A part of a split: its name, and from where to where, in rows or percent.
PART = re.compile(r"([^\[+]+?)\s*(?:\[(\d*)(%?):(\d*)(%?)\])?")


def refuse_trained_rows(subject: Subject) -> None:
    """Raise `SettingError` where rows that the job in use holds out can be among those that the model was trained
    on."""
    own = subject.trained_by()
    keys = leaking_keys(own, subject.job) if own is not None else []
    if keys:
        raise SettingError(
            f"{subject.name} was trained with other settings of {', '.join(keys)}: what this job holds out can be what "
            "it was trained on",
            "The rows that were held out in training are those of its own job: leave out --config, or --set of these "
            "keys. For other rows name a data set that was not trained on, with eval: true. --split train measures "
            "trained rows.",
            keys[0],
        )


def on_trained_rows(subject: Subject) -> Subject:
    """`subject` with the data of the job that trained it, where the config in use has other data and nobody has set
    it by --set."""
    own, overrides = subject.trained_by(), subject.loaded.source.overrides
    if own is None or any(key.startswith(("dataset", "training.seed")) for key in overrides):
        return subject
    # Where the data lies now is the config's matter.
    entries = [
        entry.model_copy(update={"path": now.path, "prepared": now.prepared}) if same_name(entry, now) else entry
        for entry, now in zip_longest(
            own.datasets, subject.job.datasets[: len(own.datasets)], fillvalue=own.datasets[0]
        )
    ]
    training = subject.job.training.model_copy(update={"seed": own.training.seed})
    dataset = entries if isinstance(own.dataset, list) else entries[0]
    return subject.with_job(subject.job.model_copy(update={"dataset": dataset, "training": training}))


def without_held_out(subject: Subject) -> str:
    """What to do where no row is held out."""
    if subject.trained_by() is None:
        return "Set dataset.eval_fraction, or evaluate on --split train."
    return (
        "Which rows were not trained on was settled in training (dataset.eval_fraction): train again with it, give "
        "other rows by a data set of their own with eval: true (--config), or evaluate on --split train."
    )


def leaking_keys(own: JobConfig, used: JobConfig) -> list[str]:
    """The keys by which `used` can hold out rows that `own` trained on; none where it cannot."""
    keys: list[str] = []
    for index, entry in enumerate(used.datasets):
        if not (entry.eval or entry.eval_fraction or entry.prepared):
            continue
        if any(may_share_rows(trained, entry) for trained in own.datasets if not trained.eval):
            keys += [key for key in _differing(own, used, index) if key not in keys]
    return keys


def _differing(own: JobConfig, used: JobConfig, index: int) -> Iterator[str]:
    """The keys on which the held-out rows of an entry depend, and which the two jobs set differently."""
    owner = f"dataset[{index}]" if isinstance(used.dataset, list) else "dataset"
    now = used.datasets[index]
    if index >= len(own.datasets) or not same_name(own.datasets[index], now):
        yield f"{owner}.prepared" if now.prepared else f"{owner}.path"
        return
    before = own.datasets[index]
    for key in DatasetSection.model_fields:
        if key not in (*WITHOUT_EFFECT, "path", "prepared") and getattr(before, key) != getattr(now, key):
            yield f"{owner}.{key}"
    if now.eval_fraction and own.training.seed != used.training.seed:
        yield "training.seed"
    if now.eval_fraction and own.model.max_seq_length != used.model.max_seq_length:
        yield "model.max_seq_length"


def may_share_rows(one: DatasetSection, other: DatasetSection) -> bool:
    """Whether two entries can hold the same rows. Prepared data does not say what it was made of."""
    if (one.prepared is None) != (other.prepared is None):
        return True
    if not same_name(one, other) or one.name != other.name:
        return False
    return one.prepared is not None or any(
        _overlap(part, its) for part in _parts(one.split) for its in _parts(other.split)
    )


def same_name(one: DatasetSection, other: DatasetSection) -> bool:
    """Whether two entries name the same data, which may have moved: a published job.yaml has no folders."""
    names = [Path(entry.prepared or entry.path).name for entry in (one, other)]
    return names[0] == names[1] and (one.prepared is None) == (other.prepared is None)


# A split's name; where a slice of it begins and ends, None for all of it; whether that is percent.
_Part = tuple[str, tuple[float, float] | None, bool]


def _parts(split: str) -> list[_Part]:
    parts: list[_Part] = []
    for text in split.split("+"):
        found = PART.fullmatch(text.strip())
        if found is None or not (found[2] or found[4]):
            # All of it; or a slice that counts from the end or is rounded in a way of its own.
            parts.append((re.sub(r"[\[(].*", "", text).strip(), None, False))
            continue
        slice_ = (float(found[2] or 0), float(found[4] or "inf"))
        parts.append((found[1], slice_, "%" in (found[3], found[5])))
    return parts


def _overlap(one: _Part, other: _Part) -> bool:
    (name, slice_, in_percent), (its_name, its_slice, its_percent) = one, other
    if name != its_name or slice_ is None or its_slice is None or in_percent != its_percent:
        return name == its_name
    return slice_[0] < its_slice[1] and its_slice[0] < slice_[1]
