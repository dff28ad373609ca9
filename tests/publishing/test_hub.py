"""Pushing with the real huggingface_hub client, in a process of its own, to a hub on this machine."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hub_server import TOKEN, HubServer, hub_server
from huggingface_hub import ModelCard
from local_hub import Fault
from safetensors.numpy import save_file

from gptoss_ft.errors import ExitCode

ROOT = Path(__file__).parents[2]
JOB = """
model: {name: openai/gpt-oss-20b, load_in_4bit: false}
dataset: {path: /home/ann/secret/rows.jsonl}
training: {output_dir: run}
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as server:
        yield server


@dataclass
class Ended:
    code: int
    output: str

    def told(self, code: ExitCode, *words: str) -> None:
        assert "Traceback" not in self.output, self.output
        assert self.code == code, self.output
        for part in words:
            assert part in self.output, self.output


Program = Callable[..., Ended]


@pytest.fixture
def program(hub: HubServer, tmp_path: Path) -> Iterator[Program]:
    """Run a command of ours against the hub. Whatever it does, the token is in nothing that it leaves."""
    secrets = {TOKEN.encode()}
    said: list[str] = []

    def run(*arguments: str, timeout: int = 120, **variables: str | None) -> Ended:
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "OMP_NUM_THREADS") if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "HF_HOME": str(tmp_path / "huggingface"),
            "GPTOSS_FT_OUTPUT_ROOT": str(tmp_path / "outputs"),
            "HF_ENDPOINT": hub.address,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",  # the server speaks LFS
            **{name: value for name, value in variables.items() if value is not None},
        }
        for name in [name for name, value in variables.items() if value is None]:
            environment.pop(name, None)
        if environment.get("HF_TOKEN"):
            secrets.add(environment["HF_TOKEN"].encode())
        done = subprocess.run(
            [sys.executable, "-m", "gptoss_ft", *arguments],
            env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
        )  # fmt: skip
        said.append(done.stdout)
        return Ended(done.returncode, done.stdout)

    yield run
    left = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    sent = {f"{name}: {path}": data for name, repo in hub.repositories.items() for path, data in repo.files.items()}
    for secret in secrets:
        assert not any(secret.decode() in text for text in said)
        assert [
            where for where, data in {**left, **sent}.items() if secret in data and "planted" not in str(where)
        ] == []


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A final_model with what a trainer may leave beside it."""
    folder = tmp_path / "outputs" / "run" / "final_model"
    folder.mkdir(parents=True)
    for name, seed in (("adapter_model.safetensors", 0), ("extra.safetensors", 1)):
        weight = np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32)
        save_file({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": weight}, folder / name)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "openai/gpt-oss-20b"}')
    (folder / "chat_template.jinja").write_text("{{ reasoning_effort }}")
    (folder / "job.yaml").write_text(JOB)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nours\n")
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json", "libraries.log", "checkpoint-2/a.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not the model's")
    return folder


MODEL_FILES = [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "extra.safetensors",
]


def test_a_model_arrives_whole_and_nothing_else_does(hub: HubServer, program: Program, adapter: Path) -> None:
    before = {path: path.read_bytes() for path in adapter.rglob("*") if path.is_file()}
    program("push", "--model", str(adapter)).told(
        ExitCode.DONE,
        f"pushing {adapter} to ann/run-lora, private",
        f"pushed to {hub.address}/ann/run-lora/commit/{1:040d}",
    )
    repository = hub.repositories["ann/run-lora"]
    assert repository.private
    assert sorted(repository.files) == sorted([*MODEL_FILES, "job.yaml"])
    for name in MODEL_FILES:
        assert repository.files[name] == (adapter / name).read_bytes()
    assert b"path: rows.jsonl" in repository.files["job.yaml"]
    assert b"/home/ann" not in repository.files["job.yaml"]
    assert {path: path.read_bytes() for path in adapter.rglob("*") if path.is_file()} == before
    # The card is checked before anything is sent, and without Xet large files go by LFS.
    order = [request.path for request in hub.requests if request.method in ("POST", "PUT")]
    assert order.index("/api/validate-yaml") < order.index("/api/models/ann/run-lora/preupload/main")
    assert len(hub.asked("PUT", "/objects/")) == 2
    assert not hub.asked("GET", "xet")
    # Only storage, whose addresses are signed, is asked without the token.
    assert {request.path for request in hub.requests if request.token is None} == {
        request.path for request in hub.asked("PUT", "/objects/")
    }


def test_a_second_push_sends_nothing(hub: HubServer, program: Program, adapter: Path) -> None:
    for _ in range(2):
        program("push", "--model", str(adapter)).told(ExitCode.DONE, f"commit/{1:040d}")
    assert len(hub.repositories["ann/run-lora"].commits) == 1
    assert len(hub.asked("PUT", "/objects/")) == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", "/objects/", 403, times=1),  # a signature that has run out
        Fault("POST", "/commit/", 500, times=1),
        Fault("POST", "/commit/", "reset", times=1),
    ],
    ids=lambda fault: f"{fault.pattern} {fault.answer}",
)
def test_an_upload_that_broke_off_goes_on(hub: HubServer, program: Program, adapter: Path, fault: Fault) -> None:
    hub.faults.append(fault)
    program("push", "--model", str(adapter)).told(
        ExitCode.HUB, f"so {adapter} was not pushed", f"bash train.sh push --model {adapter} --repo ann/run-lora\n"
    )
    assert hub.repositories["ann/run-lora"].files == {}
    arrived = set(hub.objects)
    hub.requests.clear()
    program("push", "--model", str(adapter)).told(ExitCode.DONE, "pushed to")
    sent = {request.path.rpartition("/")[2] for request in hub.asked("PUT", "/objects/")}
    assert len(hub.objects) == 2
    assert sent == set(hub.objects) - arrived
    assert (fault.method == "PUT") == bool(sent)
    files = hub.repositories["ann/run-lora"].files
    assert all(files[name] == (adapter / name).read_bytes() for name in MODEL_FILES)


@pytest.mark.parametrize("sight", ["--private", "--public"])
def test_the_cure_is_the_same_command(hub: HubServer, program: Program, adapter: Path, sight: str) -> None:
    hub.faults.append(Fault("POST", "/commit/", 500, times=1))
    program("push", "--model", str(adapter), "--repo", "lab/tutor", sight).told(
        ExitCode.HUB, f"Then: bash train.sh push --model {adapter} --repo lab/tutor {sight}\n"
    )


def test_a_fault_that_passes_is_waited_out(hub: HubServer, program: Program, adapter: Path) -> None:
    hub.faults += [Fault("PUT", "/objects/", "reset", times=1), Fault("POST", "/preupload/", 503, times=1)]
    program("push", "--model", str(adapter)).told(ExitCode.DONE, "pushed to")


def test_where_it_goes_and_who_sees_it(hub: HubServer, program: Program, adapter: Path, tmp_path: Path) -> None:
    program("push", "--model", str(adapter), "--repo", "lab/tutor", "--public").told(ExitCode.DONE, "lab/tutor, public")
    assert not hub.repositories["lab/tutor"].private
    again = program("push", "--model", str(adapter), "--repo", "lab/tutor", "--private")
    again.told(ExitCode.DONE, "lab/tutor, public, which it was before")
    program("push", "--model", str(adapter), "--set", "hub.repo_id=ann/of-config", HF_USER="bob").told(ExitCode.DONE)
    program("push", "--model", str(adapter), HF_USER="lab").told(ExitCode.DONE, "lab/run-lora")
    merged = tmp_path / "outputs" / "run" / "merged_model"
    merged.mkdir()
    (merged / "config.json").write_text('{"model_type": "gpt_oss"}')
    (merged / "job.yaml").write_text(JOB)
    program("push", "--model", str(merged)).told(ExitCode.DONE, "ann/run-merged")
    header = ModelCard(hub.repositories["ann/run-merged"].files["README.md"].decode()).data
    assert (header.library_name, header.base_model_relation) == ("transformers", "finetune")
    assert not (merged / "README.md").exists()
    assert list(hub.repositories) == ["lab/tutor", "ann/of-config", "lab/run-lora", "ann/run-merged"]


def test_a_card_is_made_where_there_is_none_and_anew_when_asked(
    hub: HubServer, program: Program, adapter: Path
) -> None:
    hub.licences["openai/gpt-oss-20b"] = "mit"  # whatever the hub says counts
    program("push", "--model", str(adapter), "--card", "--set", "hub.tags=[education]").told(ExitCode.DONE)
    card = hub.repositories["ann/run-lora"].files["README.md"]
    assert card == (adapter / "README.md").read_bytes()
    data = ModelCard(card.decode()).data
    assert (data.base_model, data.license, data.tags[-1]) == ("openai/gpt-oss-20b", "mit", "education")
    assert 'PeftModel.from_pretrained(base, "ann/run-lora")' in card.decode()
    assert "/home/ann" not in card.decode()


REFUSALS = {
    "a token that the hub does not know": (
        {"HF_TOKEN": "hf_" + "x" * 34},
        "the hub refused the token for the token's account (401)",
    ),
    "no token": (
        {"HF_TOKEN": None},
        "error: there is no token to push with\nSet HF_TOKEN, or log in with `hf auth login`.\n",
    ),
    "no token's characters": ({"HF_TOKEN": "hf_“quoted”"}, "holds characters that no token has"),
    "by environment": ({"PUSH_TO_HUB": "false"}, "error: PUSH_TO_HUB=false: nothing is pushed\nUnset PUSH_TO_HUB"),
    "offline": ({"HF_HUB_OFFLINE": "1"}, "error: HF_HUB_OFFLINE is set, so nothing can be pushed\nUnset it.\n"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_keeps_a_push_from_beginning(hub: HubServer, program: Program, adapter: Path, case: str) -> None:
    variables, message = REFUSALS[case]
    program("push", "--model", str(adapter), **variables).told(ExitCode.HUB, message)
    assert hub.repositories == {}


def test_an_account_without_the_right(hub: HubServer, program: Program, adapter: Path) -> None:
    push = ("push", "--model", str(adapter))
    program(*push, "--repo", "others/x").told(ExitCode.HUB, "the token is of ann, who is no member of others")
    program(*push, "--repo", "x").told(ExitCode.CONFIG, "--repo x: wanted OWNER/NAME")
    assert hub.asked("POST", "") == []
    hub.role = "read"
    program(*push).told(ExitCode.HUB, "the token may only read", "Set HF_TOKEN to a token that may write")
    hub.role = "fineGrained"
    program(*push).told(ExitCode.DONE)
    hub.read_only.add("ann/run-lora")
    program(*push).told(ExitCode.HUB, "the token may not do this with ann/run-lora (403)")
    hub.faults.append(Fault("POST", "/api/repos/create", 404))
    program(*push).told(ExitCode.HUB, "ann/run-lora")


def test_a_new_card_is_there_whatever_becomes_of_the_push(program: Program, adapter: Path) -> None:
    told = f"the card is {adapter / 'README.md'}"
    program("push", "--model", str(adapter), "--card", HF_TOKEN=None).told(ExitCode.HUB, told, "there is no token")
    card = (adapter / "README.md").read_text()
    assert "# run\n" in card
    assert 'from_pretrained(base, "outputs/run/final_model")' in card


def test_a_hub_that_does_not_answer(program: Program, adapter: Path) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        program("push", "--model", str(adapter), HF_ENDPOINT=address).told(
            ExitCode.HUB, "the hub cannot be reached", "HF_ENDPOINT"
        )
        ended = program("generate", "--model", "ann/tutor", "--prompt", "Hi", HF_ENDPOINT=address)
        ended.told(ExitCode.HUB, "the hub cannot be reached for ann/tutor")
        # Our two lines, and none of the client's on each of its tries.
        assert len(ended.output.splitlines()) == 2


def test_a_card_that_the_hub_refuses(hub: HubServer, program: Program, adapter: Path) -> None:
    program("push", "--model", str(adapter), "--card", "--set", "hub.license=my-own").told(
        ExitCode.HUB, 'the hub refuses the model card\'s header: - "license" must be one of', "hub.license"
    )
    assert hub.repositories["ann/run-lora"].files == {}
    assert hub.objects == {}


@pytest.mark.parametrize("content", [TOKEN, "hf_" + "Z9" * 17], ids=["the token in use", "another"])
def test_a_file_with_a_token_is_not_sent(hub: HubServer, program: Program, adapter: Path, content: str) -> None:
    (adapter / "planted.json").write_text(json.dumps({"system": f"use {content}"}))
    program("push", "--model", str(adapter)).told(ExitCode.HUB, "planted.json holds what looks like an access token")
    assert hub.repositories["ann/run-lora"].files == {}


def test_an_address_that_holds_a_token_is_not_shown(hub: HubServer, program: Program, adapter: Path) -> None:
    address = f"http://user:{TOKEN}@127.0.0.1:x{hub.address.rpartition(':')[2]}"
    ended = program("push", "--model", str(adapter), HF_ENDPOINT=address)
    ended.told(ExitCode.HUB)


def test_an_account_that_may_store_no_more(hub: HubServer, program: Program, adapter: Path) -> None:
    hub.full = True
    program("push", "--model", str(adapter)).told(
        ExitCode.HUB, "the hub does not store the files: Encountered error for file", "Storage quota exceeded"
    )


def test_a_base_model_is_not_pushed(program: Program, adapter: Path) -> None:
    program("push", "--model", "base").told(ExitCode.DATA, "is a base model, which nothing was trained into")


def test_with_xet_a_hub_that_has_none_is_told_of(hub: HubServer, program: Program, adapter: Path) -> None:
    program("push", "--model", str(adapter), HF_HUB_DISABLE_XET=None).told(
        ExitCode.HUB, f"so {adapter} was not pushed", f"bash train.sh push --model {adapter}"
    )
    assert hub.repositories["ann/run-lora"].files == {}


SMALL = """
model: {name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}
dataset: {path: tiny/multilingual-thinking, max_samples: 8}
training: {max_steps: 2, optim: adamw_torch_fused, output_dir: run}
tracking: {report_to: none}
hub: {push: true, tags: [education], license: apache-2.0}
"""


def test_a_run_ends_on_the_hub(hub: HubServer, program: Program, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(SMALL)
    program("train", timeout=280, GPTOSS_FT_CACHE=os.environ["GPTOSS_FT_CACHE"]).told(
        ExitCode.DONE, f"pushed to {hub.address}/ann/run-lora/commit/{1:040d}"
    )
    final = tmp_path / "outputs" / "run" / "final_model"
    sent = hub.repositories["ann/run-lora"].files
    assert sent.keys() == {path.name for path in final.iterdir()}
    assert sent["adapter_model.safetensors"] == (final / "adapter_model.safetensors").read_bytes()
    assert sent["README.md"] == (final / "README.md").read_bytes()
    card = ModelCard(sent["README.md"].decode())
    assert card.data.tags[-1] == "education"
    losses = [json.loads(line)["loss"] for line in (final.parent / "log.jsonl").read_text().splitlines()]
    assert re.search(rf"\| 2 \| {losses[-1]:.4f} \|", card.text)


def test_a_run_that_cannot_push_is_told_before_it_trains(hub: HubServer, program: Program, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(SMALL)
    hub.role = "read"
    program("train").told(ExitCode.HUB, "the token may only read")
    assert not (tmp_path / "outputs").exists()
