"""Every way in which a job ends, each with the marked tokens in its environment."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from marked_tokens import TOKENS
from refusing_server import refusing_server

ROOT = Path(__file__).parents[1]
JOB = """\
model: {name: tiny/llama, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
lora: {target_modules: [q_proj, v_proj]}
dataset: {path: tiny/finetome}
training:
  max_steps: STEPS
  per_device_train_batch_size: 1
  gradient_accumulation_steps: 1
  optim: adamw_torch
  gradient_checkpointing: false
  logging_steps: 1
  save_steps: 2
  save_total_limit: 1
  output_dir: run
tracking: {report_to: [tensorboard, wandb]}
hub: {repo_id: ann/model}
"""
FEW, MANY = 4, 4000
SECONDS = 300


class Place:
    """A folder that holds all that a job reads and writes; runs jobs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, folder / "said.txt"
        self.config, self.outputs = folder / "here" / "config.yaml", folder / "outputs"
        for name in ("home", "tmp", "here"):
            (folder / name).mkdir(parents=True)
        self.config.write_text(JOB.replace("STEPS", str(FEW)))

    def start(self, *arguments: str, before: tuple[str, ...] = (), **variables: str) -> "subprocess.Popen[bytes]":
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ}
        own = {
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "GPTOSS_FT_CACHE": str(self.folder / "cache"),
            "GPTOSS_FT_OUTPUT_ROOT": str(self.outputs),
            "HF_HOME": str(self.folder / "cache" / "huggingface"),
            # The client says all that it sends.
            "HF_DEBUG": "1",
            "WANDB_MODE": "offline",
            "PUSH_TO_HUB": "no",
        }
        with self.said.open("ab") as said:
            return subprocess.Popen(
                [*before, sys.executable, str(ROOT / "train.py"), *arguments],
                env=kept | own | TOKENS | variables, cwd=self.config.parent, stdin=subprocess.DEVNULL, stdout=said,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def run(self, *arguments: str, before: tuple[str, ...] = (), **variables: str) -> int:
        return self.start(*arguments, before=before, **variables).wait(timeout=SECONDS)

    def steps(self) -> int:
        log = self.outputs / "run" / "log.jsonl"
        return log.read_text().count("\n") if log.exists() else 0


def succeeds(place: Place) -> int:
    return place.run()


def push_is_refused(place: Place) -> int:
    """At the end, where all that was asked before training was granted."""
    account = {"name": "ann", "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}}
    granted = {
        "/api/whoami-v2": account,
        "/api/repos/create": {"url": "http://127.0.0.1/ann/model"},
        "/api/models/ann/model/auth-check/write": {},
        "/api/models/ann/model": {"id": "ann/model", "private": True},
    }
    with refusing_server(403, f"not a token of ann's: {TOKENS['HF_TOKEN']}", granted) as address:
        return place.run(PUSH_TO_HUB="yes", HF_ENDPOINT=address)


def token_is_wrong(place: Place) -> int:
    with refusing_server(401, f"no such token: {TOKENS['HF_TOKEN']}") as address:
        return place.run("--set", "dataset.path=ann/rows", HF_ENDPOINT=address)


def hub_answers_with_errors(place: Place) -> int:
    """By an address that holds a password."""
    with refusing_server(404, "nothing here") as address:
        named = address.replace("://", f"://ann:{TOKENS['SERVICE_API_KEY']}@")
        return place.run("--set", "dataset.path=ann/rows", HF_ENDPOINT=named)


def no_network(place: Place) -> int:
    """Nobody listens at the proxy, whose address holds a password."""
    proxy = f"http://ann:{TOKENS['SERVICE_API_KEY']}@127.0.0.1:9"
    return place.run("push", "--model", "ann/model", HTTPS_PROXY=proxy, HTTP_PROXY=proxy)


def disk_is_full(place: Place) -> int:
    """The output folder's, which is looked at before it is gone."""
    place.outputs.mkdir()
    kept = place.folder / "kept"
    mount = f'mount -t tmpfs -o size=1m none "{place.outputs}"'
    script = f'{mount} && "$@"; code=$?; cp -r "{place.outputs}" "{kept}"; exit $code'
    return place.run(before=("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"))


def config_is_wrong(place: Place) -> int:
    """Because it holds a token."""
    place.config.write_text(
        f"{JOB.replace('STEPS', str(FEW))}\n# not a key\nevaluation: {{system: {TOKENS['HF_TOKEN']}}}\n"
    )
    code = place.run()
    place.config.unlink()
    return code


def data_are_wrong(place: Place) -> int:
    """A row's path and role are named in the error; they hold a token."""
    rows = place.config.with_name("rows.jsonl")
    rows.write_text(json.dumps({"conversations": [{"from": TOKENS["HF_TOKEN"], "value": "Hello"}]}) + "\n")
    code = place.run("--set", f"dataset.path={rows.name}", "--set", "dataset.format=sharegpt")
    rows.unlink()
    return code


def is_terminated(place: Place) -> int:
    return signalled(place, signal.SIGTERM)


def is_killed(place: Place) -> int:
    return signalled(place, signal.SIGKILL)


def signalled(place: Place, number: signal.Signals) -> int:
    process = place.start("--set", f"training.max_steps={MANY}")
    ends = time.monotonic() + SECONDS
    while place.steps() <= FEW and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(timeout=SECONDS)


def loss_is_not_finite(place: Place) -> int:
    """A weight of the base model is not."""
    import torch
    from safetensors.torch import load_file, save_file

    from gptoss_ft import tiny

    model = tiny.materialize("tiny/llama", place.folder / "cache")
    (file,) = model.glob("*.safetensors")
    weights = load_file(file)
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, file, metadata={"format": "pt"})
    return place.run("--set", f"model.name={model}")


def code_is_broken(place: Place) -> int:
    """A library raises what no user can mend; its exception holds a token."""
    broken = place.folder / "broken"
    broken.mkdir()
    (broken / "datasets.py").write_text("import os\nraise RuntimeError('sent ' + os.environ['HF_TOKEN'])\n")
    return place.run("validate", "--set", "dataset.path=ann/rows", PYTHONPATH=str(broken))


# How a job ends, and its exit code.
ENDINGS: dict[str, tuple[Callable[[Place], int], int]] = {
    "success": (succeeds, 0),
    "defect": (code_is_broken, 1),
    "bad config": (config_is_wrong, 2),
    "bad data": (data_are_wrong, 3),
    "full disk": (disk_is_full, 4),
    "wrong token": (token_is_wrong, 5),
    "push refused": (push_is_refused, 5),
    "no such repository": (hub_answers_with_errors, 3),
    "no network": (no_network, 5),
    "not finite": (loss_is_not_finite, 7),
    "SIGTERM": (is_terminated, 75),
    "SIGKILL": (is_killed, -signal.SIGKILL),
}
