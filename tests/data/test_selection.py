"""The choice of evaluation rows and of each entry's share: what is chosen, and that it is always the same."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_ft.config import DatasetSection
from gptoss_ft.data.rendering import Sample
from gptoss_ft.data.selection import BEYOND_SHARE, DUPLICATE, Selection, select
from gptoss_ft.data.storage import Rendered, RenderedFile, to_batch

SEED = 3407
HALF = DatasetSection(path="half", eval_fraction=0.5)
QUARTER = DatasetSection(path="quarter", eval_fraction=0.25)
ALL = DatasetSection(path="all")
EVAL = DatasetSection(path="eval", eval=True)

# What every machine and version must choose.
EVALUATED_OF_20 = {3407: [4, 12, 13, 17, 18], 1: [1, 3, 10, 17, 19]}

# (entry, row, token that makes the sample what it is)
Rows = Sequence[tuple[int, int, int]]
Write = Callable[[Rows], RenderedFile]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return lambda rows: written(tmp_path / "rendered.arrow", rows)


def written(path: Path, rows: Rows) -> RenderedFile:
    file, before, at = RenderedFile(path), None, 0
    samples = []
    for source, row, token in rows:
        at = at + 1 if (source, row) == before else 0
        before = (source, row)
        ids = np.array([token], np.int32)
        samples.append(Rendered(Sample(ids, ids, [(0, 1, "final")], [(0, 1)]), source, row, at, "medium"))
    with file.writer() as writer:
        for begin in range(0, len(samples), 16):
            writer.write_batch(to_batch(samples[begin : begin + 16]))
    return file


def different(entry: int, count: int) -> list[tuple[int, int, int]]:
    """Rows of one sample each, no two of which are the same."""
    return [(entry, row, 1000 * entry + row) for row in range(count)]


def weighted(*weights: float) -> list[DatasetSection]:
    return [DatasetSection(path=f"{index}", weight=weight) for index, weight in enumerate(weights)]


def evaluated(selection: Selection) -> list[int]:
    return [int(at) for at in np.flatnonzero(selection.eval)]


def test_without_wishes_everything_is_trained_on(write: Write) -> None:
    selection = select([ALL], write(different(0, 5)), SEED)
    assert selection.train.tolist() == [True] * 5
    assert not selection.eval.any()
    assert selection.left_out == {}


@pytest.mark.parametrize(("fraction", "of", "wanted"), [(0.25, 20, 5), (0.26, 10, 3), (0.01, 20, 1), (0.5, 1, 1)])
def test_the_share_is_rounded_and_at_least_one(write: Write, fraction: float, of: int, wanted: int) -> None:
    config = DatasetSection(path="rows", eval_fraction=fraction)
    selection = select([config], write(different(0, of)), SEED)
    assert int(selection.eval.sum()) == wanted
    assert (selection.train ^ selection.eval).all()


@pytest.mark.parametrize("seed", list(EVALUATED_OF_20))
def test_the_choice_is_the_same_on_every_machine(write: Write, seed: int) -> None:
    assert evaluated(select([QUARTER], write(different(0, 20)), seed)) == EVALUATED_OF_20[seed]


def test_the_choice_is_the_same_in_another_process(write: Write) -> None:
    file = write([*different(0, 20), *different(1, 10)])
    program = (
        "import json, sys; from pathlib import Path; from gptoss_ft.config import DatasetSection;"
        "from gptoss_ft.data.selection import select; from gptoss_ft.data.storage import RenderedFile;"
        "configs = [DatasetSection(path=str(i), weight=1 + i, eval_fraction=0.25) for i in range(2)];"
        "chosen = select(configs, RenderedFile(Path(sys.argv[1])), 3407);"
        "print(json.dumps([chosen.train.tolist(), chosen.eval.tolist()]))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(file.path)], cwd=root, capture_output=True, check=True, text=True
    )
    configs = [DatasetSection(path=str(index), weight=1 + index, eval_fraction=0.25) for index in range(2)]
    here = select(configs, file, SEED)
    assert json.loads(done.stdout) == [here.train.tolist(), here.eval.tolist()]


def test_all_samples_of_a_row_are_on_one_side(write: Write) -> None:
    rows = [(0, row, 10 * row + sample) for row in range(12) for sample in range(3)]
    selection = select([HALF], write(rows), SEED)
    assert int(selection.eval.sum()) == 18
    for row in range(12):
        assert len(set(selection.eval[3 * row : 3 * row + 3].tolist())) == 1


def test_the_choice_in_an_entry_does_not_depend_on_another_ones_rows(write: Write) -> None:
    first = select([QUARTER, HALF], write([*different(0, 20), *different(1, 4)]), SEED)
    second = select([QUARTER, HALF], write([*different(0, 20), *different(1, 9)]), SEED)
    assert first.eval[:20].tolist() == second.eval[:20].tolist()
    alone = select([QUARTER], write(different(0, 20)), SEED)
    assert alone.eval.tolist() == first.eval[:20].tolist()


def test_entries_with_the_same_rows_choose_differently(write: Write) -> None:
    selection = select([HALF, HALF], write([*different(0, 40), *different(1, 40)]), SEED)
    assert selection.eval[:40].tolist() != selection.eval[40:].tolist()


def test_an_eval_entry_is_evaluated_on_whole(write: Write) -> None:
    selection = select([ALL, EVAL], write([*different(0, 3), *different(1, 2)]), SEED)
    assert selection.train.tolist() == [True, True, True, False, False]
    assert selection.eval.tolist() == [False, False, False, True, True]


def test_what_is_evaluated_on_is_not_trained_on(write: Write) -> None:
    selection = select([ALL, EVAL], write([(0, 0, 5), (0, 0, 6), (0, 1, 7), (0, 2, 7), (1, 0, 7), (1, 1, 5)]), SEED)
    assert selection.train.tolist() == [False, True, False, False, False, False]
    assert selection.left_out[DUPLICATE].tolist() == [True, False, True, True, False, False]


def test_samples_that_are_the_same_only_among_themselves_stay(write: Write) -> None:
    selection = select([ALL, EVAL], write([(0, 0, 5), (0, 1, 5), (1, 0, 6), (1, 1, 6)]), SEED)
    assert (int(selection.train.sum()), int(selection.eval.sum()), selection.left_out) == (2, 2, {})


@pytest.mark.parametrize(
    ("weights", "counts", "kept"),
    [
        ((7, 3), (70, 100), (70, 30)),
        ((7, 3), (100, 9), (21, 9)),
        ((1, 1, 2), (10, 10, 10), (5, 5, 10)),
        ((0.5, 0.5), (4, 9), (4, 4)),
        ((1, 0.001), (10, 10), (10, 0)),
    ],
)
def test_shares_without_a_row_twice(
    write: Write, weights: tuple[float, ...], counts: tuple[int, ...], kept: tuple[int, ...]
) -> None:
    rows = [row for entry, count in enumerate(counts) for row in different(entry, count)]
    selection = select(weighted(*weights), write(rows), SEED)
    source = np.array([entry for entry, _, _ in rows])
    assert tuple(int(selection.train[source == entry].sum()) for entry in range(len(counts))) == kept
    assert (selection.left_out[BEYOND_SHARE] == ~selection.train).all()


def test_shares_count_rows_and_only_those_left_to_train_on(write: Write) -> None:
    # Entry 0: four rows of two samples each, one of them the same as an evaluation row. Entry 1: six rows.
    first = [(0, row, 10 * row + sample) for row in range(4) for sample in range(2)]
    same = [(2, 0, first[0][2]), (2, 1, first[1][2])]
    selection = select([*weighted(1, 1), EVAL], write([*first, *different(1, 6), *same]), SEED)
    assert selection.left_out[DUPLICATE].tolist() == [True, True, *[False] * 14]
    assert selection.train[:8].tolist() == [False, False, *[True] * 6]
    assert int(selection.train[8:14].sum()) == 3


def test_a_larger_share_holds_the_smaller_one(write: Write) -> None:
    few = select(weighted(1, 1), write([*different(0, 30), *different(1, 5)]), SEED)
    more = select(weighted(1, 1), write([*different(0, 30), *different(1, 12)]), SEED)
    assert (int(few.train[:30].sum()), int(more.train[:30].sum())) == (5, 12)
    assert not (few.train[:30] & ~more.train[:30]).any()


def test_an_entry_without_rows_leaves_the_others_no_share(write: Write) -> None:
    selection = select(weighted(1, 1), write(different(0, 5)), SEED)
    assert not selection.train.any()
    assert selection.left_out[BEYOND_SHARE].all()


def test_no_rows_at_all(write: Write) -> None:
    for configs in ([QUARTER], weighted(1, 2), [ALL, EVAL]):
        selection = select(configs, write([]), SEED)
        assert len(selection.train) == len(selection.eval) == 0


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.lists(st.integers(0, 20), max_size=20)),
        min_size=1, max_size=3,
    ),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_sample_is_trained_on_evaluated_on_or_left_out_for_one_reason(
    write: Write, entries: list[tuple[float, list[int]]], weights: bool, seed: int
) -> None:
    rows = [(index, row, token) for index, (_, tokens) in enumerate(entries) for row, token in enumerate(tokens)]
    configs = [
        DatasetSection(path="rows", eval_fraction=fraction, weight=index + 1 if weights else None)
        for index, (fraction, _) in enumerate(entries)
    ]
    selection = select(configs, write(rows), seed)
    masks = [selection.train, selection.eval, *selection.left_out.values()]
    assert (np.sum(masks, axis=0) == 1).all()
    trained = {token for (_, _, token), is_trained in zip(rows, selection.train, strict=True) if is_trained}
    held_out = {token for (_, _, token), is_held_out in zip(rows, selection.eval, strict=True) if is_held_out}
    assert not trained & held_out
