"""train.sh with a real engine: what the job sees, whose its files are, which signals and codes pass."""

import contextlib
import json
import os
import pty
import re
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from docker_caller import Caller

pytestmark = pytest.mark.docker


def facts(answer: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert answer.returncode == 0, answer.stdout + answer.stderr
    told: dict[str, Any] = json.loads(answer.stdout)
    return told


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_job_sees_its_folder_and_writes_only_where_it_should(caller: Caller) -> None:
    told = facts(caller.run("--set", "a=b c", DOCKER_RUN_ARGS=caller.with_probe(), HF_TOKEN="hf_hidden"))
    assert told["arguments"] == ["--set", "a=b c", "--config", "config.yaml"]
    assert told["config"] == "default: 1\n"
    assert told["folder"] == "/job"
    assert told["user"] == [caller.uid, caller.gid]
    assert told["writable"] == ["/tmp", "/cache", "/outputs"]
    assert told["capabilities"] == 0
    assert told["no_new_privileges"] == "1"
    assert told["home"] == "/tmp"
    assert told["shared_memory_gib"] == 8
    assert told["token"]
    environment = told["environment"]
    assert environment["HF_HOME"] == "/cache/huggingface"
    assert environment["GPTOSS_FT_CACHE"] == "/cache"
    assert environment["GPTOSS_FT_OUTPUT_ROOT"] == "/outputs"
    assert environment["USER"] == environment["LOGNAME"] != ""
    shown = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", caller.image], capture_output=True, text=True, check=True
    )
    assert environment["GPTOSS_FT_IMAGE_ID"] == shown.stdout.strip()


def test_files_belong_to_the_caller_and_follow_the_umask(caller: Caller) -> None:
    facts(caller.run(DOCKER_RUN_ARGS=caller.with_probe(), umask="027"))
    folder = caller.outputs / "new"
    assert (folder.stat().st_uid, folder.stat().st_gid) == (caller.uid, caller.gid)
    assert (mode(caller.outputs), mode(folder), mode(folder / "file")) == (0o750, 0o750, 0o640)


def test_root_may_write_into_the_folder_of_another(caller: Caller) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can be root")
    caller.outputs.mkdir(mode=0o700)
    os.chown(caller.outputs, caller.uid, caller.gid)
    (caller.here / "config.yaml").chmod(0o600)
    caller.uid = caller.gid = 0
    told = facts(caller.run(DOCKER_RUN_ARGS=caller.with_probe()))
    assert told["user"] == [0, 0]
    assert "/outputs" in told["writable"]


def test_a_config_outside_the_folder_is_seen(caller: Caller) -> None:
    outside = caller.folder / "out, side.yaml"
    outside.write_text("other: 2\n")
    told = facts(caller.run("--config", str(outside), DOCKER_RUN_ARGS=caller.with_probe()))
    assert told["config"] == "other: 2\n"


def test_a_stub_gpu_is_asked_for(caller: Caller) -> None:
    """Only where the engine lets a container start with --gpus; a GPU machine shows the rest."""
    can = subprocess.run(
        ["docker", "run", "--rm", "--gpus", "all", "--entrypoint", "true", caller.image], capture_output=True, text=True
    )
    tools = caller.folder / "bin"
    tools.mkdir()
    for name, text in (("nvidia-smi", "echo 580.65.06"), ("nvidia-container-runtime-hook", ":")):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    answer = caller.run(DOCKER_RUN_ARGS=caller.with_probe(), GPUS="all", PATH=path)
    assert answer.returncode == (0 if can.returncode == 0 else 4), answer.stderr


def wait_for_line(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return
    pytest.fail(f"the job ended without saying {word!r}")


@pytest.mark.parametrize(
    ("sent", "received"), [("TERM", "SIGTERM"), ("INT", "SIGINT"), ("HUP", "SIGTERM"), ("USR1", "SIGUSR1")]
)
@pytest.mark.parametrize("whole_group", [False, True])
def test_a_signal_reaches_python_once_and_its_code_comes_back(
    caller: Caller, sent: str, received: str, whole_group: bool
) -> None:
    process = caller.start("wait", DOCKER_RUN_ARGS=caller.with_probe())
    wait_for_line(process, "ready")
    number = signal.Signals[f"SIG{sent}"]
    if whole_group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    assert rest.splitlines()[-1] == f"received {received}"
    assert process.returncode == 75


def test_ctrl_c_at_a_terminal_reaches_python_once(caller: Caller) -> None:
    master, slave = pty.openpty()
    shell = caller.command("wait")
    # A shell of its own session makes the terminal its controlling one, as a login does.
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *shell], cwd=caller.here, stdin=slave, stdout=slave, stderr=slave,
        env=caller.environment(DOCKER_RUN_ARGS=caller.with_probe(), TERM="xterm"),
    )  # fmt: skip
    os.close(slave)
    seen = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(master, 4096):
                seen.extend(chunk)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    deadline = time.monotonic() + 60
    while b"ready" not in seen:
        assert time.monotonic() < deadline, bytes(seen)
        time.sleep(0.05)
    os.write(master, b"\x03")
    assert process.wait(timeout=60) == 75
    reader.join(timeout=5)
    assert b"received SIGINT\r\n" in seen


def test_a_token_is_on_no_command_line_while_the_job_runs(caller: Caller) -> None:
    process = caller.start("wait", DOCKER_RUN_ARGS=caller.with_probe(), HF_TOKEN="hf_hidden", WANDB_API_KEY="w_hidden")
    wait_for_line(process, "ready")
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(entry.read_bytes())
    process.terminate()
    process.communicate(timeout=60)
    assert any(b"gptoss_ft/train.py" in line for line in lines)
    assert not [line for line in lines if b"_hidden" in line]


def test_an_option_that_docker_refuses_is_4(caller: Caller) -> None:
    answer = caller.run(DOCKER_RUN_ARGS="--no-such-option")
    assert answer.returncode == 4
    assert "docker could not start the container (code 125)" in answer.stderr


def test_an_image_that_is_not_there_an_engine_that_is_not_and_gpus_that_are_not(caller: Caller) -> None:
    answer = caller.run(IMAGE="gptoss_ft/none:1")
    assert (answer.returncode, "build it first: IMAGE=gptoss_ft/none:1 bash" in answer.stderr) == (4, True)
    answer = caller.run(DOCKER_HOST=f"unix://{caller.folder}/no.sock")
    assert (answer.returncode, "engine does not answer" in answer.stderr) == (4, True)
    tools = caller.folder / "bin"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\necho 550.54.15\n")
    (tools / "nvidia-smi").chmod(0o755)
    answer = caller.run(GPUS="all", PATH=f"{tools}:{os.environ['PATH']}")
    assert (answer.returncode, "550.54.15" in answer.stderr) == (4, True)


def test_a_bad_config_is_2(caller: Caller) -> None:
    answer = caller.run()
    assert answer.returncode == 2, answer.stderr
    assert "config.yaml:1:1" in answer.stderr


def test_the_smoke_job_trains_and_its_files_are_the_callers(caller: Caller) -> None:
    answer = caller.run("--config", "configs/smoke.yaml", "--set", "training.max_steps=2", umask="027")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    files = [path for path in caller.outputs.rglob("*") if path.is_file()]
    assert {"manifest.json", "log.jsonl", "adapter_model.safetensors"} <= {path.name for path in files}
    assert {(path.stat().st_uid, path.stat().st_gid) for path in files} == {(caller.uid, caller.gid)}
    assert not [path for path in files if mode(path) & 0o027], "files follow the umask"
    assert sorted(path.name for path in caller.here.iterdir()) == ["config.yaml", "configs"]


def test_the_smoke_job_trains_without_privileges_and_keeps_its_tokens(caller: Caller) -> None:
    """What the engine says of the container while the job trains in it, and what it leaves."""
    process = caller.start(
        "--config", "configs/smoke.yaml", "--set", "training.max_steps=50",
        HF_TOKEN="hf_hidden_hidden", HUGGING_FACE_HUB_TOKEN="old_hidden_hidden", WANDB_API_KEY="w_hidden_hidden",
    )  # fmt: skip
    wait_for_line(process, "training")
    (container,) = asked_of_docker("ps", "--quiet", "--no-trunc", "--filter", f"ancestor={caller.image}").split()
    facts = json.loads(asked_of_docker("inspect", container))[0]
    host = facts["HostConfig"]
    assert (host["ReadonlyRootfs"], host["Privileged"], host["CapDrop"], host["CapAdd"]) == (True, False, ["ALL"], None)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert list(host["Tmpfs"]) == ["/tmp"]
    assert facts["Config"]["User"] == f"{caller.uid}:{caller.gid}"
    assert {mount["Destination"] for mount in facts["Mounts"] if mount["RW"]} == {"/cache", "/outputs"}
    assert "_hidden_hidden" not in json.dumps([facts["Args"], facts["Config"]["Cmd"], facts["Config"]["Labels"]])
    (status,) = {
        line for line in asked_of_docker("exec", container, "cat", "/proc/1/status").split("\n") if "CapEff" in line
    }
    assert int(status.split()[1], 16) == 0
    # Docker counts the mount points that it makes, and nothing else has changed.
    changed = {line.split()[1] for line in asked_of_docker("diff", container).splitlines()}
    assert {path for path in changed if not path.startswith("/job")} <= {"/cache", "/outputs", "/tmp", "/run", "/dev"}
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 0, rest
    assert "_hidden_hidden" not in rest
    written = [path for path in (*caller.folder.rglob("*"),) if path.is_file()]
    assert any(path.name == "adapter_model.safetensors" for path in written)
    assert not [path for path in written if b"_hidden_hidden" in path.read_bytes()]


def asked_of_docker(*command: str) -> str:
    return subprocess.run(["docker", *command], capture_output=True, text=True, check=True).stdout


def test_a_smoke_job_that_is_stopped_saves_its_state_and_goes_on(caller: Caller) -> None:
    arguments = (
        "--config",
        "configs/smoke.yaml",
        "--set",
        "training.max_steps=4000",
        "--set",
        "training.logging_steps=1",
    )
    process = caller.start(*arguments)
    deadline = time.monotonic() + 180
    while not [log for log in caller.outputs.rglob("log.jsonl") if log.read_text().count("\n") >= 2]:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    # Meanwhile another container does not write to the same folder.
    second = caller.run(*arguments)
    assert second.returncode == 3, second.stderr
    assert re.search(r"another run is writing to /outputs/\S+: process \d+ on \w+, which began ", second.stderr)
    process.terminate()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 75, said
    (manifest,) = caller.outputs.rglob("manifest.json")
    assert json.loads(manifest.read_text())["status"] == "interrupted"
    assert list(caller.outputs.rglob("checkpoint-*"))
