"""The rules that hold between the entries of `dataset`: what is trained on, in which shares, what stands alone."""

from collections.abc import Iterator, Sequence

from gptoss_ft.config.sections import DatasetSection


def entry_faults(dataset: DatasetSection | list[DatasetSection]) -> list[tuple[str, str]]:
    """(dotted key, what was wanted) of each value of `dataset` that does not fit the others; empty when all do."""
    if not isinstance(dataset, list):
        return list(_faults(["dataset"], [dataset]))
    names = [f"dataset[{index}]" for index in range(len(dataset))]
    prepared = [
        (f"{name}.prepared", "wanted null in a list: prepared data stands alone")
        for name, entry in zip(names, dataset, strict=True)
        if entry.prepared is not None
    ]
    return [*prepared, *_faults(names, dataset)]


def _faults(names: Sequence[str], entries: Sequence[DatasetSection]) -> Iterator[tuple[str, str]]:
    named = list(zip(names, entries, strict=True))
    trained = [(name, entry) for name, entry in named if not entry.eval]
    if not trained:
        yield f"{names[0]}.eval", "wanted an entry without eval: true, for nothing would be left to train on"
    weighted = [name for name, entry in named if entry.weight is not None]
    if weighted and len(entries) == 1:
        yield f"{weighted[0]}.weight", "wanted null: a weight is relative to other entries, and there is only one"
        return
    for name, entry in named:
        if entry.eval and entry.weight is not None:
            yield f"{name}.weight", "wanted null: a weight is a share of the training rows, and eval: true has none"
    given = [name for name, entry in trained if entry.weight is not None]
    lacking = [name for name, entry in trained if entry.weight is None]
    if given and lacking:
        yield f"{lacking[0]}.weight", f"wanted a number above 0: {given[0]} has a weight, so each entry needs one"
