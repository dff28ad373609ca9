"""Whose an output folder is, and what a run that goes on says of the one before. Without training."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from gptoss_ft.config import JobConfig
from gptoss_ft.errors import OutputError
from gptoss_ft.reporting.checkpoint_folder import seal
from gptoss_ft.reporting.in_use import in_use
from gptoss_ft.reporting.manifest import code_facts, library_versions
from gptoss_ft.reporting.only_writer import Writer
from gptoss_ft.reporting.output_folder import OutputFolder, Start, claimed_folder
from gptoss_ft.reporting.same_job import Change

RUN = Path("outputs/run")
BEGAN = "2026-11-21T20:05:00+00:00"


def job(**training: Any) -> JobConfig:
    return JobConfig.model_validate({"training": {"output_dir": "run", "max_steps": 4, **training}})


def make_run(status: str = "interrupted", stateful_callbacks: Any = None, **more: Any) -> None:
    """A run of `job()` with checkpoint-2, whose trainer wanted four steps of an epoch of three."""
    checkpoint = RUN / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    state = {"global_step": 2, "max_steps": 4, "epoch": 2 / 3, "stateful_callbacks": stateful_callbacks or {}}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    seal(checkpoint, 2)
    facts = {"code": code_facts(), "versions": library_versions(), "started": BEGAN, "continued": [{"from": "x"}]}
    config = job().model_dump(mode="json")
    (RUN / "manifest.json").write_text(json.dumps({"status": status, "config": config, **facts, **more}))


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTOSS_FT_COMMIT", "c" * 40)


def claim(start: Start, **training: Any) -> OutputFolder:
    with claimed_folder(job(**training), start) as output:
        return output


def refusal(start: Start, **training: Any) -> str:
    before = sorted(map(str, RUN.rglob("*")))
    with pytest.raises(OutputError) as raised:
        claim(start, **training)
    assert sorted(map(str, RUN.rglob("*"))) == before
    assert raised.value.key == "training.output_dir"
    return raised.value.message


def test_a_new_folder() -> None:
    output = claim(Start())
    assert (output.path, output.resume_from, output.earlier, output.changes, output.gone) == (RUN, None, None, (), None)
    assert output.history["continued"] == []
    assert not output.is_complete(job().training)


def test_an_unfinished_job_goes_on_and_remembers_when_it_began() -> None:
    make_run()
    output = claim(Start(), logging_steps=7)
    assert (output.resume_from, output.resume_step) == (RUN / "checkpoint-2", 2)
    history = output.history
    now = history["continued"][1].pop("at")
    assert now > BEGAN
    assert history == {
        "started": BEGAN,
        "continued": [
            {"from": "x"},
            {"from": "checkpoint-2", "changed": [{"key": "training.logging_steps", "before": "1", "now": "7"}]},
        ],
    }


def test_a_changed_setting_or_library_is_refused_unless_it_is_allowed() -> None:
    make_run(versions=library_versions() | {"torch": "1.0"})
    words = refusal(Start(), learning_rate=0.5)
    torch = library_versions()["torch"]
    assert words == (
        f"outputs/run holds a job that began {BEGAN}; since then this changed:\n"
        f"  training.learning_rate: 0.0002 → 0.5\n  code torch: 1.0 → {torch}"
    )
    assert "torch" not in refusal(Start(allowed=("code",)), learning_rate=0.5)
    output = claim(Start(allowed=("code", "training.learning_rate")), learning_rate=0.5)
    assert [change.key for change in output.changes] == ["training.learning_rate", "code torch"]


def test_without_a_checkpoint_there_is_nothing_that_could_differ() -> None:
    make_run()
    (RUN / "checkpoint-2").rename("elsewhere")
    output = claim(Start(), learning_rate=0.5)
    assert (output.resume_from, output.earlier, output.changes) == (None, None, ())


def test_where_no_checkpoint_is_whole_the_run_begins_anew() -> None:
    make_run()
    (RUN / "checkpoint-2" / "trainer_state.json").write_text("{}")
    output = claim(Start())
    assert (output.resume_from, output.earlier) == (None, None)
    assert output.damages[0].aside == "checkpoint-2.damaged-1"
    assert output.history["continued"] == []


def test_a_finished_job_says_so_but_one_can_go_back_in_it() -> None:
    make_run("finished", updated="2026-11-21T21:00:00+00:00")
    assert refusal(Start()) == "outputs/run holds a finished job of 2026-11-21T21:00:00+00:00"
    output = claim(Start(checkpoint="checkpoint-2"))
    assert output.resume_from == RUN / "checkpoint-2"
    # Nothing has moved so far: the rows may still stand against it.
    assert json.loads((RUN / "manifest.json").read_text())["status"] == "finished"
    (RUN / "final_model").mkdir()
    back = output.gone_back()
    assert (back.resume_from, back.aside) == (RUN / "checkpoint-2", RUN / "set-aside-1")
    assert back.history["continued"][1]["set_aside"] == "set-aside-1"
    assert json.loads((RUN / "manifest.json").read_text())["status"] == "interrupted"


def test_a_change_that_is_found_out_later_is_refused_as_well() -> None:
    make_run()
    rows = Change("data", "24 rows", "25 rows")
    with pytest.raises(OutputError, match="data: 24 rows → 25 rows") as raised:
        claim(Start()).accepting([rows], "dataset.path")
    assert raised.value.key == "dataset.path"
    assert claim(Start(allowed=("data",))).accepting([rows], "dataset.path").changes == (rows,)


@pytest.mark.parametrize(
    ("training", "is_complete"),
    [
        ({"max_steps": 2}, True),
        ({"max_steps": 3}, False),
        ({"max_steps": None, "num_train_epochs": 2 / 3}, True),
        ({"max_steps": None, "num_train_epochs": 1.0}, False),
        ({"eval_steps": 5, "early_stopping_patience": 3}, True),
        ({"eval_steps": 5, "early_stopping_patience": 4}, False),
    ],
)
def test_a_job_is_complete_when_what_it_asks_for_now_is_done(training: dict[str, Any], is_complete: bool) -> None:
    make_run(stateful_callbacks={"HeldOutLoss": {"attributes": {"waited": 3}}})
    output = claim(Start(allowed=("training",)), **training)
    assert output.is_complete(job(**training).training) == is_complete


def test_fewer_steps_than_are_done_are_refused() -> None:
    make_run()
    for start in (Start(allowed=("training",)), Start(checkpoint="checkpoint-2", allowed=("training",))):
        with pytest.raises(OutputError, match=r"^read 1, but outputs/run/checkpoint-2 is already of step 2$") as raised:
            claim(start, max_steps=1)
        assert raised.value.key == "training.max_steps"


def test_a_run_that_was_killed_is_told() -> None:
    Path("outputs").mkdir()
    Path("outputs/.run.writer.json").write_text(json.dumps({"host": "box", "process": 7, "since": "then"}))
    assert claim(Start()).gone == Writer("box", 7, "then")
    assert claim(Start()).gone is None


def test_a_second_run_is_told_of_the_first() -> None:
    with (
        claimed_folder(job()),
        pytest.raises(OutputError, match=r"is writing to outputs/run: process \d+ on .*, which"),
    ):
        claim(Start(restart=True))


def test_restart_keeps_the_folder_aside() -> None:
    make_run("finished")
    output = claim(Start(restart=True), learning_rate=0.5)
    assert (output.resume_from, output.aside) == (None, Path("outputs/run.old-1"))
    assert Path("outputs/run.old-1/checkpoint-2").is_dir()


def test_what_continues_after_an_interruption() -> None:
    """Of what is done once, only when it is done."""
    make_run("finished")
    again, back = Start(restart=True), Start(checkpoint="checkpoint-2")
    assert Start().how_to_continue() == "The same command continues."
    assert again.how_to_continue() == "The same command begins anew."
    output = claim(back)
    assert back.how_to_continue() == "The same command continues."
    output.gone_back()
    assert back.how_to_continue() == "The same command, without --from, continues."
    claim(again)
    assert again.how_to_continue() == "The same command, without --restart, continues."


def test_a_folder_that_a_restart_made_is_not_moved_aside_once_more() -> None:
    start = Start(restart=True)
    claim(start)
    assert start.how_to_continue() == "The same command, without --restart, continues."


@pytest.mark.parametrize("content", ["", '{"status": "interr', "[]"])
def test_a_manifest_that_cannot_be_read_is_named(content: str) -> None:
    """As after a power cut."""
    make_run()
    (RUN / "manifest.json").write_text(content)
    words = "outputs/run/manifest.json cannot be read, so what was trained there is not known"
    assert refusal(Start()) == words
    assert refusal(Start(checkpoint="checkpoint-2")) == words
    RUN.rename("outputs/other")
    with pytest.raises(OutputError, match=r"^outputs/other/manifest.json cannot be read") as raised:
        claim(Start(checkpoint="outputs/other/checkpoint-2"))
    assert raised.value.cure == (
        "Put a copy of it back, or train on from the checkpoint's weights alone, with model.adapter."
    )


def test_what_was_cut_off_on_its_way_back_is_no_run_to_go_on_with() -> None:
    make_run()
    (RUN / ".set-aside-1.partial").mkdir()
    words = "outputs/run was on its way back to a checkpoint when train --from was cut off"
    assert refusal(Start()) == words
    (RUN / "manifest.json").unlink()
    assert refusal(Start()) == words
    assert claim(Start(restart=True)).aside == Path("outputs/run.old-1")


@pytest.mark.parametrize("left", [".checkpoint-2.partial", ".set-aside-new", ".set-aside-1.partial"])
def test_into_a_new_folder_a_copy_that_was_cut_off_is_made_again(left: str) -> None:
    make_run()
    RUN.rename("outputs/other")
    (RUN / left).mkdir(parents=True)
    back = claim(Start(checkpoint="outputs/other/checkpoint-2")).gone_back()
    assert (back.resume_from, back.aside) == (RUN / "checkpoint-2", None)
    assert sorted(path.name for path in RUN.iterdir() if path.is_dir()) == ["checkpoint-2"]
    assert claim(Start()).resume_step == 2


def test_going_back_asks_at_once_whether_a_command_uses_the_folder() -> None:
    make_run()
    with in_use(RUN), pytest.raises(OutputError, match="another command is using outputs/run"):
        claim(Start(checkpoint="checkpoint-2"))


def test_what_going_back_cannot_write_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    make_run("finished")
    (RUN / "final_model").mkdir()
    output = claim(Start(checkpoint="checkpoint-2"))

    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OutputError, match=r"^the output folder outputs/run cannot be written: Permission denied$"):
        output.gone_back()
    assert not output.start.has_moved
