"""`--from`: which checkpoint is meant, and where all that came later goes."""

import errno
import json
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gptoss_ft.errors import OutputError
from gptoss_ft.inference.samples import SAMPLES
from gptoss_ft.publishing.export import PORTABLE_ADAPTER
from gptoss_ft.publishing.run_facts import MEMORY
from gptoss_ft.reporting import going_back, step_log
from gptoss_ft.reporting.checkpoint_folder import seal, what_is_wrong
from gptoss_ft.reporting.evaluation_report import EVALUATION
from gptoss_ft.reporting.going_back import OF_THE_END, go_back, is_half_back, named_checkpoint
from gptoss_ft.reporting.output_folder import FINAL_MODEL, MERGED_MODEL

RUN, OTHER = Path("outputs/run"), Path("outputs/other")


def make_run(folder: Path, *steps: int) -> None:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"status": "finished", "config": {}, "started": folder.name}))
    (folder / "job.yaml").write_text("{}")
    (folder / "log.jsonl").write_text(f"{folder.name}\n")
    for step in steps:
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "weights").write_text(f"{folder.name} {step}")
        seal(checkpoint, step)


@pytest.fixture(autouse=True)
def _a_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(RUN, 2, 4, 10)
    (RUN / "final_model").mkdir()
    (RUN / "evaluation.json").write_text("{}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_names_of_files_are_those_of_their_rooms() -> None:
    assert going_back.LOG == step_log.NAME
    assert set(OF_THE_END) == {FINAL_MODEL, MERGED_MODEL, PORTABLE_ADAPTER, EVALUATION, SAMPLES, MEMORY}


def test_a_checkpoint_is_named_in_the_folder_or_by_its_path() -> None:
    assert named_checkpoint(RUN, "checkpoint-4") == RUN / "checkpoint-4"
    assert named_checkpoint(OTHER, "outputs/run/checkpoint-4") == RUN / "checkpoint-4"


def test_outputs_is_the_output_root_wherever_that_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    RUN.parent.rename("elsewhere")
    monkeypatch.setenv("GPTOSS_FT_OUTPUT_ROOT", "elsewhere")
    assert named_checkpoint(OTHER, "outputs/run/checkpoint-4") == Path("elsewhere/run/checkpoint-4")


def refusal(name: str) -> tuple[str, str]:
    before = names(RUN)
    with pytest.raises(OutputError) as raised:
        named_checkpoint(RUN, name)
    assert names(RUN) == before
    return raised.value.message, raised.value.cure


def test_one_that_is_missing_or_damaged_is_told_with_those_that_are_there() -> None:
    (RUN / "checkpoint-4" / "weights").write_text("run X")
    damage = "weights is not what was written: its SHA-256 differs"
    there = f"outputs/run holds: checkpoint-10; checkpoint-4 (not whole: {damage}); checkpoint-2."
    assert refusal("checkpoint-3") == ("there is no checkpoint outputs/run/checkpoint-3", there)
    assert refusal("checkpoint-4") == (f"outputs/run/checkpoint-4 is not whole: {damage}", there)
    for other in ("outputs/run/final_model", "run", ".", ""):
        told = f"--from {other}: wanted checkpoint-N of the output folder, or the path of one"
        assert refusal(other) == (told, there)
    assert refusal("nope/checkpoint-1") == ("there is no checkpoint nope/checkpoint-1", there)
    assert refusal("outputs/checkpoint-1") == ("there is no checkpoint outputs/checkpoint-1", "outputs holds none.")


def test_one_outside_a_run_is_refused() -> None:
    (RUN / "checkpoint-2").rename("checkpoint-2")
    assert refusal("./checkpoint-2")[0] == (
        "checkpoint-2 lies beside no manifest.json, so what it was trained on is not known"
    )


def test_all_that_came_later_becomes_a_runs_folder_of_its_own() -> None:
    assert go_back(RUN, RUN / "checkpoint-2") == (RUN / "checkpoint-2", RUN / "set-aside-1")
    assert names(RUN) == ["checkpoint-2", "job.yaml", "log.jsonl", "manifest.json", "set-aside-1"]
    assert names(RUN / "set-aside-1") == [
        "checkpoint-10", "checkpoint-4", "evaluation.json", "final_model", "job.yaml", "log.jsonl", "manifest.json",
    ]  # fmt: skip
    statuses = [json.loads((path / "manifest.json").read_text())["status"] for path in (RUN, RUN / "set-aside-1")]
    assert statuses == ["interrupted", "finished"]
    # Once more: nothing came later.
    assert go_back(RUN, RUN / "checkpoint-2") == (RUN / "checkpoint-2", None)


def test_to_what_was_set_aside_one_can_go_back() -> None:
    go_back(RUN, RUN / "checkpoint-2")
    aside = named_checkpoint(RUN, "outputs/run/set-aside-1/checkpoint-4")
    assert go_back(RUN, aside) == (RUN / "checkpoint-4", RUN / "set-aside-2")
    assert what_is_wrong(RUN / "checkpoint-4") is None
    assert names(RUN / "set-aside-2") == ["checkpoint-2", "job.yaml", "log.jsonl", "manifest.json"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_checkpoint_of_another_run_comes_with_its_manifest_and_log(is_there: bool) -> None:
    if is_there:
        make_run(OTHER, 2, 6)
    else:
        OTHER.mkdir()
    own, aside = go_back(OTHER, RUN / "checkpoint-2")
    assert (own / "weights").read_text() == "run 2"
    assert what_is_wrong(own) is None
    assert names(OTHER)[:4] == ["checkpoint-2", "job.yaml", "log.jsonl", "manifest.json"] or not is_there
    assert (OTHER / "log.jsonl").read_text() == "run\n"
    manifest = json.loads((OTHER / "manifest.json").read_text())
    assert (manifest["started"], manifest["status"]) == ("run", "interrupted")
    assert names(RUN)[:3] == ["checkpoint-10", "checkpoint-2", "checkpoint-4"]
    if is_there:
        assert aside == OTHER / "set-aside-1"
        assert (aside / "checkpoint-2" / "weights").read_text() == "other 2"
        assert (aside / "log.jsonl").read_text() == "other\n"
    else:
        assert aside is None


@pytest.fixture
def other() -> Path:
    make_run(OTHER, 2, 6)
    (OTHER / "final_model").mkdir()
    return OTHER


def test_of_a_checkpoint_the_bytes_are_copied_and_no_more(other: Path) -> None:
    """Its folder may be read-only, or hold what it was not sealed with."""
    source = RUN / "checkpoint-2"
    (source / "README").write_text("somebody's")
    for path in (source / "weights", source):
        path.chmod(path.stat().st_mode & ~0o222)
    own, _ = go_back(other, source)
    source.chmod(0o755)
    assert what_is_wrong(own) is None
    assert names(own) == ["checkpoint.json", "weights"]
    assert all(path.stat().st_mode & 0o200 for path in (own, own / "weights"))


def pruned(source: Path, target: Path) -> None:
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(source))


def flipped(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes()[::-1])


@pytest.mark.parametrize(
    ("copy", "why"),
    [(pruned, "No such file or directory"), (flipped, "it changed meanwhile, or the disk errs")],
)
def test_what_cannot_be_copied_as_it_was_sealed_is_refused_before_anything_moves(
    copy: Callable[[Path, Path], None], why: str, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(map(str, other.rglob("*")))
    monkeypatch.setattr(shutil, "copyfile", copy)
    with pytest.raises(OutputError) as raised:
        go_back(other, RUN / "checkpoint-2")
    assert raised.value.message == f"outputs/run/checkpoint-2 cannot be copied: {why}"
    assert sorted(map(str, other.rglob("*"))) == before


def test_a_full_disk_stays_one(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        go_back(other, RUN / "checkpoint-2")
    assert not list(other.glob(".checkpoint*"))


HIDDEN = (".checkpoint-", ".set-aside-new")


class Killed(BaseException):
    """What no code of ours catches, as none runs after SIGKILL."""


def kill_before(number: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kill at the call of that number to something that changes the folder; the calls so far."""
    seen: list[str] = []

    def watched(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*given: Any, **options: Any) -> Any:
            if len(seen) == number:
                raise Killed
            seen.append(name)
            return real(*given, **options)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (Path, "rename"), (Path, "mkdir"), (Path, "rmdir"), (Path, "replace"), (shutil, "copyfile"),
        (shutil, "rmtree"), (going_back, "seal"),
    ):  # fmt: skip
        watched(owner, name)
    return seen


def state_of(run: Path) -> dict[str, bytes]:
    files = (path for path in run.rglob("*") if path.is_file())
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "source", ["checkpoint-2", "outputs/other/checkpoint-2", "outputs/run/set-aside-1/checkpoint-4"]
)
def test_killed_anywhere_it_is_nobodys_run_until_the_same_command_has_ended_it(
    source: str, other: Path, tmp_path: Path
) -> None:
    """Nothing is scattered, nothing is lost, and the folder never looks like a run that may go on."""
    if "set-aside" in source:
        go_back(RUN, RUN / "checkpoint-2")
    shutil.copytree("outputs", "before")
    before = state_of(RUN)
    whole = go_back(RUN, named_checkpoint(RUN, source))
    expected = state_of(RUN)
    for number in count():
        shutil.rmtree("outputs")
        shutil.copytree("before", "outputs")
        with pytest.MonkeyPatch.context() as patched:
            calls = kill_before(number, patched)
            try:
                go_back(RUN, named_checkpoint(RUN, source))
            except Killed:
                pass
            else:
                break
        # Of what has a hidden name no run goes on.
        seen = {name: content for name, content in state_of(RUN).items() if not name.startswith(HIDDEN)}
        assert is_half_back(RUN) or seen in (before, expected), calls
        assert go_back(RUN, named_checkpoint(RUN, source))[0] == whole[0]
        now = state_of(RUN)
        assert {name: now.get(name) for name in expected} == expected, calls
        assert not is_half_back(RUN)
    assert number > 5
