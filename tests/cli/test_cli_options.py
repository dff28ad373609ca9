"""The command line's own words."""

from pathlib import Path

import pytest
from command_line import JOB, ROOT, Run

from gptoss_ft import job
from gptoss_ft.config import LoadedConfig
from gptoss_ft.errors import ExitCode
from gptoss_ft.reporting.output_folder import Start


def test_an_option_that_is_none(run: Run) -> None:
    ended = run("--confg", "job.yaml")
    assert ended.code == 2
    assert "No such option: --confg" in ended.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("train", "--help"), ("schema", "--help")])
def test_help(run: Run, arguments: tuple[str, ...]) -> None:
    ended = run(*arguments)
    assert (ended.code, ended.stderr) == (0, "")
    assert "Usage: gptoss_ft" in ended.stdout


def test_schema_writes_what_the_repository_holds(run: Run) -> None:
    Path("docs").mkdir()
    ended = run("schema")
    assert (ended.code, ended.stdout.split()) == (0, ["config.schema.json", "docs/configuration.md"])
    for name in ended.stdout.split():
        assert Path(name).read_bytes() == (ROOT / name).read_bytes()


def test_the_command_train_may_be_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []

    def train(loaded: LoadedConfig, start: Start) -> None:
        seen.append((loaded.source.path, start.restart))

    monkeypatch.setattr(job, "train", train)
    Path("config.yaml").write_text(JOB, encoding="utf-8")
    for arguments in ((), ("train",), ("--config", "job.yaml"), ("train", "--config", "job.yaml", "--restart")):
        assert run(*arguments).code == ExitCode.DONE
    assert seen == [("config.yaml", False), ("config.yaml", False), ("job.yaml", False), ("job.yaml", True)]


def test_how_a_run_begins_is_handed_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Start] = []
    monkeypatch.setattr(job, "train", lambda loaded, start: seen.append(start))
    arguments = ("--from", "checkpoint-2", "--allow-changed", "training.learning_rate", "--allow-changed", "code")
    assert run("--config", "job.yaml", *arguments).code == ExitCode.DONE
    assert seen == [Start(False, "checkpoint-2", ("training.learning_rate", "code"))]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--restart", "--from", "checkpoint-2"), "give either --restart or --from"),
        (("--allow-changed", "lora.rank"), "lora.rank is no key of the config, nor code or data"),
    ],
)
def test_options_that_contradict_or_name_nothing(run: Run, arguments: tuple[str, ...], words: str) -> None:
    ended = run("--config", "job.yaml", *arguments)
    assert (ended.code, words in " ".join(ended.stderr.replace("│", "").split())) == (ExitCode.CONFIG, True)


def test_a_checkpoint_that_is_not_there(run: Run) -> None:
    run("--config", "job.yaml", "--from", "checkpoint-7").check(
        ExitCode.DATA, "error: there is no checkpoint outputs/run/checkpoint-7", "outputs/run holds none."
    )
