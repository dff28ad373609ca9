"""Jobs with marked tokens in their environment, ended in every way: no file, output or command line shows a token."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from download_hub import DownloadHub, download_hub
from local_hub import Fault

from gptoss_ft.errors import ExitCode

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
marked_tokens = importlib.import_module("marked_tokens")
TOKENS: dict[str, str] = marked_tokens.TOKENS
JOB = """\
model: {name: tiny/llama, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
lora: {target_modules: [q_proj, v_proj]}
dataset: {path: tiny/finetome}
training:
  max_steps: 2000
  per_device_train_batch_size: 1
  gradient_accumulation_steps: 1
  optim: adamw_torch
  gradient_checkpointing: false
  logging_steps: 1
  save_steps: 2
  save_total_limit: 1
  output_dir: run
tracking: {report_to: [tensorboard]}
"""


class Place:
    """A folder that holds all that a job writes, home and temporary files included, and runs jobs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, folder / "said.txt"
        for name in ("home", "tmp", "here"):
            (folder / name).mkdir()
        (folder / "here" / "config.yaml").write_text(JOB)

    def start(self, *arguments: str, before: tuple[str, ...] = (), **variables: str) -> "subprocess.Popen[bytes]":
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ}
        own = {
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "GPTOSS_FT_CACHE": str(self.folder / "cache"),
            "GPTOSS_FT_OUTPUT_ROOT": str(self.folder / "outputs"),
            "HF_HOME": str(self.folder / "cache" / "huggingface"),
            "HF_DEBUG": "1",  # the client says all that it sends
            "WANDB_MODE": "offline",
        }
        with self.said.open("ab") as said:
            return subprocess.Popen(
                [*before, sys.executable, str(ROOT / "train.py"), *arguments],
                env=kept | own | TOKENS | variables, cwd=self.folder / "here", stdout=said, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def run(self, *arguments: str, before: tuple[str, ...] = (), **variables: str) -> int:
        return self.start(*arguments, before=before, **variables).wait(timeout=120)

    def steps(self) -> int:
        log = self.folder / "outputs" / "run" / "log.jsonl"
        return log.read_text().count("\n") if log.exists() else 0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Whatever is done in it, nothing shows a token afterwards."""
    made = Place(tmp_path)
    with marked_tokens.Watch() as watch:
        yield made
    assert watch.seen
    assert watch.found == []
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert made.said in files
    search = marked_tokens.Search()
    for path in files:
        search.look_into(path, str(path))
    assert search.found == []


@pytest.fixture
def hub() -> Iterator[DownloadHub]:
    with download_hub() as served:
        yield served


def test_a_job_that_is_killed(place: Place) -> None:
    process = place.start()
    deadline = time.monotonic() + 100
    while place.steps() < 5:
        assert process.poll() is None and time.monotonic() < deadline, place.said.read_text()
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    run = place.folder / "outputs" / "run"
    assert list(run.glob("checkpoint-*")) and list(run.rglob("*.wandb")) and (run / "libraries.log").is_file()


def test_a_disk_that_is_full(place: Place) -> None:
    """The output folder's, which holds a checkpoint and a half."""
    small, kept = place.folder / "outputs", place.folder / "kept"
    small.mkdir()
    script = f'mount -t tmpfs -o size=1m none "{small}" && "$@"; code=$?; cp -r "{small}" "{kept}"; exit $code'
    code = place.run(before=("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"))
    assert code == ExitCode.MACHINE, place.said.read_text()
    assert (kept / "run" / "libraries.log").is_file()


def test_a_hub_that_refuses_the_token_and_says_it(place: Place, hub: DownloadHub) -> None:
    words = {"X-Error-Message": f"no such token: {TOKENS['HF_TOKEN']}"}
    hub.faults = [Fault(method, ".", 401, headers=words) for method in ("GET", "HEAD", "POST")]
    code = place.run("--set", "dataset.path=ann/rows", HF_ENDPOINT=hub.address)
    assert code == ExitCode.HUB, place.said.read_text()
    assert {request.token for request in hub.requests} == {TOKENS["HF_TOKEN"]}


def test_without_a_network(place: Place) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert place.run("push", "--model", "ann/model", HF_ENDPOINT=address) == ExitCode.HUB


def test_a_token_in_the_config_is_refused_and_not_told(place: Place) -> None:
    config = place.folder / "here" / "config.yaml"
    secrets = [
        f"project: {TOKENS['WANDB_API_KEY']}",
        f"run_name: a-{TOKENS['SERVICE_API_KEY']}",
        "run_name: " + "hf_" + "aBcDeFgH" * 4 + "iJ",
    ]
    for secret in secrets:
        config.write_text(JOB.replace("report_to: [tensorboard]", secret))
        assert place.run() == ExitCode.CONFIG
    config.unlink()
    said = place.said.read_text()
    assert said.count("holds what looks like an access token") == len(secrets)
    assert "set HF_TOKEN or WANDB_API_KEY in the environment" in said


def test_a_defect_whose_exception_holds_a_token(place: Place) -> None:
    """Of a library that is broken: what Python shows of it is shown, but for the token."""
    broken = place.folder / "broken"
    broken.mkdir()
    (broken / "datasets.py").write_text("import os\nraise RuntimeError('sent ' + os.environ['HF_TOKEN'])\n")
    assert place.run("validate", "--set", "dataset.path=ann/rows", PYTHONPATH=str(broken)) == ExitCode.DEFECT
    said = place.said.read_text()
    assert "Traceback (most recent call last):" in said
    assert said.splitlines()[-1] == "RuntimeError: sent (token)"
