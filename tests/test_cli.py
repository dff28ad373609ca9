"""What a user's mistake looks like: the exit code of its kind, one message with its place, and no traceback.

Most run `main` in this process, where an exception that is not a user's would end the test; a few start train.py.
"""

import errno
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gptoss_ft import cli, job
from gptoss_ft.config import LoadedConfig
from gptoss_ft.errors import DiskError, ExitCode, Interrupted
from gptoss_ft.reporting.output_folder import Start

ROOT = Path(__file__).parents[1]
JOB = """\
model:
  name: tiny/llama
  max_seq_length: 256
  load_in_4bit: false
  dtype: float32
  device: cpu
lora:
  target_modules: [q_proj, v_proj]
dataset:
  path: rows.jsonl
training:
  max_steps: 1
  optim: adamw_torch
  gradient_checkpointing: false
  output_dir: run
tracking:
  report_to: none
"""
ROW = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
GOOD_LINE = json.dumps(ROW).encode() + b"\n"
CONFIG_CURE = "docs/configuration.md lists every key, what it takes and its default."


@dataclass(frozen=True)
class Ended:
    """How a run of the command line ended."""

    code: int
    stdout: str
    stderr: str

    def check(self, code: ExitCode, *lines: str) -> None:
        """The code, and on stderr the error and its cure, line by line."""
        assert (self.code, self.stderr.splitlines()) == (code, list(lines))

    def begins(self, code: ExitCode, line: str) -> None:
        """The code, and the error, whose cure stands below it."""
        assert (self.code, self.stderr.splitlines()[0]) == (code, line)


Run = Callable[..., Ended]


@pytest.fixture(autouse=True)
def _job_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB, encoding="utf-8")
    Path("rows.jsonl").write_bytes(GOOD_LINE)


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `main` here, with job.yaml unless the arguments begin with another word."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def train(run: Run) -> Run:
    """Train job.yaml, with `KEY=VALUE` for keys that are to be otherwise."""

    def train(*overrides: str) -> Ended:
        return run("--config", "job.yaml", *(word for override in overrides for word in ("--set", override)))

    return train


@pytest.fixture
def model(tiny_llama: Path) -> Callable[..., str]:
    """Make a copy of the tiny llama in ./model, without some files or with others; gives the override that names it."""

    def model(**files: bytes | None) -> str:
        shutil.copytree(tiny_llama, "model")
        for name, content in files.items():
            path = Path("model", name.replace("__", "."))
            path.unlink()
            if content is not None:
                path.write_bytes(content)
        return "model.name=./model"

    return model


# The configuration: exit code 2.


def test_no_config_file(run: Run) -> None:
    run("--config", "nope.yaml").begins(ExitCode.CONFIG, "error: nope.yaml: no such file")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model: [", "job.yaml:1:9: not YAML"),
        ("model:\n  nam: x\n", "job.yaml:2:3: model.nam: unknown key; did you mean model.name?"),
        ("modell:\n  name: x\n", "job.yaml:1:1: modell: "),
        ("lora:\n  r: 0\n", "job.yaml:2:6: lora.r: read 0; wanted a whole number, 1 or more"),
    ],
)
def test_a_mistake_in_the_config(run: Run, text: str, problem: str) -> None:
    Path("job.yaml").write_text(text, encoding="utf-8")
    ended = run("--config", "job.yaml")
    assert ended.code == ExitCode.CONFIG
    assert ended.stderr.startswith(f"error: {problem}")
    assert ended.stdout == ""


def test_every_mistake_is_shown_at_once(train: Run) -> None:
    Path("job.yaml").write_text("lora:\n  r: 0\nmodel:\n  nam: x\n", encoding="utf-8")
    train("training.seed=-1").check(
        ExitCode.CONFIG,
        "error: job.yaml:2:6: lora.r: read 0; wanted a whole number, 1 or more",
        "job.yaml:4:3: model.nam: unknown key; did you mean model.name?",
        "--set training.seed: read -1; wanted a whole number from 0 to 4294967295",
        CONFIG_CURE,
    )


def test_a_place_is_no_emoji(run: Run) -> None:
    # Text of a terminal may hold codes of emoji, and `:100:` is one.
    Path("job.yaml").write_text("#\n" * 99 + "lra: 1\n", encoding="utf-8")
    assert run("--config", "job.yaml").stderr.startswith("error: job.yaml:100:1: lra: unknown key; ")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training.max_step=1", "--set training.max_step: unknown key; did you mean training.max_steps?"),
        ("lora.r", "--set lora.r: wanted KEY=VALUE, such as training.max_steps=100"),
        ("=3", "--set : wanted KEY=VALUE, such as training.max_steps=100"),
        ("lora.r=x", '--set lora.r: read "x"; wanted a whole number, 1 or more'),
    ],
)
def test_a_mistake_in_an_override(train: Run, override: str, problem: str) -> None:
    train(override).check(ExitCode.CONFIG, f"error: {problem}", CONFIG_CURE)


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


def test_the_length_is_more_than_the_models(train: Run) -> None:
    Path("job.yaml").write_text(JOB.replace("256", "100000"), encoding="utf-8")
    train().check(
        ExitCode.CONFIG,
        "error: job.yaml:3:19: model.max_seq_length: read 100000, but tiny/llama takes at most 4096 tokens",
        "Set model.max_seq_length to 4096 or less.",
    )


def test_a_key_of_an_override_or_of_nobody_has_its_place(train: Run) -> None:
    ended = train("model.max_seq_length=4097")
    assert ended.stderr.startswith("error: --set model.max_seq_length: ")
    assert train("dataset.format=custom").stderr.startswith("error: job.yaml:9:1 (default): dataset.text_column: ")


def test_four_bits_on_the_cpu(train: Run) -> None:
    train("model.load_in_4bit=true").check(
        ExitCode.CONFIG,
        "error: --set model.load_in_4bit: 4-bit weights need an NVIDIA GPU, and the job runs on the CPU",
        "Set model.load_in_4bit: false, or run on a GPU.",
    )


# The data: exit code 3.

PATH = "error: job.yaml:10:9: dataset.path: "


def test_no_data_file(train: Run) -> None:
    Path("rows.jsonl").unlink()
    train().check(
        ExitCode.DATA,
        f"{PATH}no such file or folder: rows.jsonl",
        f"The path is relative to the current folder, {Path.cwd()}; a hub data set is named owner/name.",
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"\xff\n", "not UTF-8: byte 0xff at column 1"),
        (b"{\n", "not JSON: Expecting property name enclosed in double quotes at column 2"),
        (b'{"messages": []}\n', "holds no message"),
    ],
)
def test_data_that_cannot_be_used(train: Run, line: bytes, problem: str) -> None:
    Path("rows.jsonl").write_bytes(GOOD_LINE + line)
    train().check(
        ExitCode.DATA,
        f"{PATH}rows.jsonl: at least 1 row cannot be trained on",
        f"  row 1 (rows.jsonl:2): {problem}",
        "Mend them (rows count from 0), or leave such rows out: dataset.on_invalid: drop.",
    )


def test_no_rows(train: Run) -> None:
    Path("rows.jsonl").write_bytes(b"")
    train().check(ExitCode.DATA, f"{PATH}rows.jsonl holds no rows", "A data set needs at least one.")


def test_no_such_column(train: Run) -> None:
    train("dataset.messages_column=chat").check(
        ExitCode.DATA,
        "error: --set dataset.messages_column: no column chat; there are: messages",
        "Name the column of messages in dataset.messages_column, or set dataset.format to what the rows are.",
    )


def test_a_message_may_hold_what_no_terminal_can_show(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("rows.jsonl").write_text('{"[bold]\\ud800": 1}\n', encoding="utf-8")
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace"))  # as Python's own
    code = train().code
    sys.stderr.seek(0)
    shown = sys.stderr.read()
    assert (code, shown.splitlines()[0]) == (
        ExitCode.DATA,
        "error: job.yaml:9:1 (default): dataset.format: no column messages or conversations; there are: [bold]\\ud800",
    )


def test_all_samples_are_too_long(train: Run) -> None:
    Path("rows.jsonl").write_text(json.dumps(ROW).replace("Hello", "Hello " * 50), encoding="utf-8")
    ended = train("model.max_seq_length=16")
    assert ended.code == ExitCode.DATA
    assert "no sample is left to train on (1 longer than max_seq_length)" in ended.stderr
    assert "Raise model.max_seq_length: " in ended.stderr


def test_a_chat_template_that_cannot_be_read(train: Run) -> None:
    ended = train("model.chat_template=nope.jinja")
    assert ended.code == ExitCode.DATA
    assert "the chat template nope.jinja cannot be read: " in ended.stderr


# The output folder: exit code 3.


def test_an_output_root_that_cannot_be_written(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("taken").write_text("a file", encoding="utf-8")
    for root, reason in (("taken", "File exists"), ("/proc/nope", "No such file or directory")):
        monkeypatch.setenv("GPTOSS_FT_OUTPUT_ROOT", root)
        train().begins(
            ExitCode.DATA,
            f"error: job.yaml:15:15: training.output_dir: the output folder {root}/run cannot be written: {reason}",
        )


def test_an_output_folder_that_is_a_strangers(train: Run) -> None:
    Path("outputs/run").mkdir(parents=True)
    Path("outputs/run/thesis.txt").write_text("mine", encoding="utf-8")
    ended = train()
    assert ended.code == ExitCode.DATA
    assert "is not empty and holds no " in ended.stderr
    assert Path("outputs/run/thesis.txt").read_text(encoding="utf-8") == "mine"


# The model's files: exit code 3.


@pytest.mark.parametrize("name", ["./nope", "/nope/x", "a/b/c", "a b"])
def test_a_model_that_is_neither_a_folder_nor_a_name(train: Run, name: str) -> None:
    train(f"model.name={name}").check(
        ExitCode.DATA,
        f"error: --set model.name: {name} is neither a file or folder here nor a name on the hub",
        "Check the path, which starts from the current folder, or the name, as owner/name.",
    )


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"config__json": None}, "./model is not a model that transformers knows: "),
        ({"config__json": b"{}"}, "./model is not a model that transformers knows: "),
        ({"config__json": b"{nope"}, "./model holds a broken file: "),
        ({"tokenizer__json": None}, "./model has no tokenizer that can be read (tokenizer.json): ValueError: "),
        (
            {"tokenizer__json": b"garbage"},
            "./model has no tokenizer that can be read (tokenizer.json): JSONDecodeError: ",
        ),
        ({"tokenizer__json": b"{}"}, "./model has no tokenizer that can be read (tokenizer.json): KeyError: "),
        (
            {"tokenizer__json": b"\xff"},
            "./model has no tokenizer that can be read (tokenizer.json): UnicodeDecodeError: ",
        ),
        ({"tokenizer_config__json": b"nope"}, "./model has no tokenizer that can be read (tokenizer.json): JSON"),
        ({"model__safetensors": None}, "./model has no weights as safetensors; pickles "),
        ({"model__safetensors": b""}, "./model holds a broken weights file: "),
        ({"model__safetensors": b"garbage" * 20}, "./model holds a broken weights file: "),
    ],
    ids=str,
)
def test_a_model_folder_that_lacks_a_file_or_holds_a_broken_one(
    train: Run, model: Callable[..., str], files: dict[str, bytes | None], problem: str
) -> None:
    ended = train(model(**files))
    assert ended.code == ExitCode.DATA
    assert ended.stderr.startswith(f"error: --set model.name: {problem}")


def test_weights_that_are_cut_short(train: Run, model: Callable[..., str], tiny_llama: Path) -> None:
    whole = (tiny_llama / "model.safetensors").read_bytes()
    ended = train(model(model__safetensors=whole[: len(whole) // 2]))
    assert ended.code == ExitCode.DATA
    assert "./model holds a broken weights file: Error while deserializing header: " in ended.stderr


def test_a_tokenizer_that_tokenizers_itself_refuses(train: Run, model: Callable[..., str], tiny_llama: Path) -> None:
    content = json.loads((tiny_llama / "tokenizer.json").read_bytes())
    content["model"] = {"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]}
    ended = train(model(tokenizer__json=json.dumps(content).encode()))
    assert ended.code == ExitCode.DATA
    assert "./model has no tokenizer that can be read (tokenizer.json): Exception: " in ended.stderr


def test_an_adapter_that_is_not_there(train: Run) -> None:
    train("model.adapter=./nope").check(
        ExitCode.DATA,
        "error: --set model.adapter: ./nope is neither a file or folder here nor a name on the hub",
        "Check the path, which starts from the current folder, or the name, as owner/name.",
    )


# The machine: exit code 4.


def test_no_gpu(train: Run) -> None:
    ended = train("model.device=cuda")
    assert ended.code == ExitCode.MACHINE
    assert ended.stderr.startswith("error: --set model.device: no NVIDIA GPU can be used: ")
    assert not Path("outputs").exists()


# The hub: exit code 5.

OFFLINE = "is not in the local cache and the hub cannot be reached"
OFFLINE_CURE = (
    "Check the network and HF_HUB_OFFLINE, or download it once with a network. "
    "The job configs/smoke.yaml runs without a network."
)


@pytest.mark.parametrize("key", ["model.name", "dataset.path", "model.adapter"])
def test_the_hub_cannot_be_reached(train: Run, key: str) -> None:
    train(f"{key}=owner/name").check(ExitCode.HUB, f"error: --set {key}: owner/name {OFFLINE}", OFFLINE_CURE)


def test_nothing_to_push_with(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSH_TO_HUB", "true")
    train().check(ExitCode.HUB, "error: there is no token to push with", "Set HF_TOKEN, or unset PUSH_TO_HUB.")


@pytest.mark.parametrize("variable", ["PUSH_TO_HUB", "RUN_EVALUATION"])
def test_a_switch_that_says_neither_yes_nor_no(train: Run, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "flase")
    train().check(
        ExitCode.CONFIG,
        f"error: {variable}=flase: wanted yes or no, as one of true, 1, yes, on, false, 0, no, off",
        f"Set {variable} anew, or unset it.",
    )


# Interruptions, and defects of ours.


def raise_in_training(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    def train(*_: object) -> None:
        act()

    monkeypatch.setattr(job, "train", train)


def stop() -> None:
    raise Interrupted("interrupted after 3 of 9 steps, the state is saved", "The same command continues.")


def test_an_interrupted_run(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in_training(monkeypatch, stop)
    train().check(
        ExitCode.INTERRUPTED,
        "stopped: interrupted after 3 of 9 steps, the state is saved",
        "The same command continues.",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training(train: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    raise_in_training(monkeypatch, lambda: signal.raise_signal(number))
    train().check(
        ExitCode.INTERRUPTED,
        "stopped: at once; steps since the last checkpoint, if any, are lost",
        "The same command continues.",
    )


def test_an_interrupted_merge_says_what_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("outputs/run/final_model")
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    shutil.copyfile("job.yaml", folder.parent / "job.yaml")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for name, words, cure in (
        ("merge", "the files of weights that were whole are kept", "The same command continues."),
        ("push", "what has arrived at the hub is not sent again", "The same command continues."),
        ("evaluate", "nothing is left half done", "The same command begins anew."),
    ):
        monkeypatch.setattr(importlib.import_module(STORIES[name][0]), STORIES[name][1], interrupted)
        run(name, "--model", str(folder)).check(ExitCode.INTERRUPTED, f"stopped: at once; {words}", cure)


STORIES = {
    "merge": ("gptoss_ft.publishing.merge_command", "merge_adapter"),
    "push": ("gptoss_ft.publishing.push_command", "push_model"),
    "evaluate": ("gptoss_ft.inference.evaluate_command", "evaluate"),
}


def test_a_defect_keeps_its_traceback_without_a_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = "hf_" + "K4" * 17

    def fail() -> None:
        raise RuntimeError(f"a shape is wrong: {token}")

    raise_in_training(monkeypatch, fail)
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "job.yaml"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == ExitCode.DEFECT
    lines = capsys.readouterr().err.splitlines()
    assert (lines[0], lines[-1]) == ("Traceback (most recent call last):", "RuntimeError: a shape is wrong: (token)")
    assert any(line.endswith(", in fail") for line in lines)


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


def test_an_interruption_of_what_would_begin_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in_training(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
    run("--config", "job.yaml", "--restart").check(
        ExitCode.INTERRUPTED,
        "stopped: at once; steps since the last checkpoint, if any, are lost",
        "The same command begins anew.",
    )


FULL = OSError(errno.ENOSPC, "No space left on device", "/full")


@pytest.mark.parametrize(
    ("options", "moves", "go_on"),
    [
        ((), False, "The same command continues."),
        (("--restart",), False, "The same command begins anew."),
        (("--restart",), True, "The same command, without --restart, continues."),
        (("--from", "checkpoint-2"), False, "The same command continues."),
        (("--from", "checkpoint-2"), True, "The same command, without --from, continues."),
    ],
)
@pytest.mark.parametrize("error", [FULL, DiskError("no space is left on the disk under /full", "Make space.")])
def test_how_to_go_on_after_a_full_disk_depends_on_what_was_moved(
    run: Run, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], moves: bool, go_on: str, error: Exception
) -> None:
    def train(loaded: LoadedConfig, start: Start) -> None:
        start.has_moved = moves
        raise error

    monkeypatch.setattr(job, "train", train)
    run("--config", "job.yaml", *options).check(
        ExitCode.MACHINE, "error: no space is left on the disk under /full", f"Make space. {go_on}"
    )


def test_a_checkpoint_that_is_not_there(run: Run) -> None:
    run("--config", "job.yaml", "--from", "checkpoint-7").check(
        ExitCode.DATA, "error: there is no checkpoint outputs/run/checkpoint-7", "outputs/run holds none."
    )


# The same through the process that a user starts.


def started(*arguments: str) -> Ended:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "Traceback" not in done.stdout + done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def test_the_process_without_its_config() -> None:
    started("--config", "nope.yaml").begins(ExitCode.CONFIG, "error: nope.yaml: no such file")


def test_the_process_without_its_data() -> None:
    ended = started("--config", "job.yaml", "--set", "dataset.path=nope.csv")
    assert ended.code == ExitCode.DATA
    assert ended.stderr.startswith("error: --set dataset.path: no such file or folder: nope.csv\n")
    assert "gptoss_ft" in ended.stdout  # the config was shown before
    assert not Path("outputs").exists()


def test_the_process_without_a_hub() -> None:
    started("--config", "job.yaml", "--set", "dataset.path=owner/name").check(
        ExitCode.HUB, f"error: --set dataset.path: owner/name {OFFLINE}", OFFLINE_CURE
    )


def test_the_process_with_a_corrupt_tokenizer(model: Callable[..., str]) -> None:
    ended = started("--config", "job.yaml", "--set", model(tokenizer__json=b"garbage"))
    assert ended.code == ExitCode.DATA
    assert "./model has no tokenizer that can be read (tokenizer.json): JSONDecodeError: " in ended.stderr
    # What Unsloth and the others print goes to their log.
    assert len(ended.stderr.splitlines()) == 2
