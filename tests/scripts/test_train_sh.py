"""train.sh: what it asks of docker, what it says when the machine is not fit, how signals and codes pass."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from script_machine import PROJECT, Machine

Start = Callable[..., subprocess.Popen[bytes]]


def job_arguments(machine: Machine) -> list[str]:
    """What train.py gets: everything after the image."""
    run = machine.noted("run")
    return run[run.index("gptoss_ft:latest") + 1 :]


def mounts(machine: Machine) -> list[str]:
    run = machine.noted("run")
    return [run[i + 1] for i, word in enumerate(run) if word == "--mount"]


def passed_names(machine: Machine) -> list[str]:
    run = machine.noted("run")
    return [run[i + 1] for i, word in enumerate(run) if word == "--env" and "=" not in run[i + 1]]


def test_without_arguments_it_trains_the_config_of_the_current_folder(machine: Machine) -> None:
    (machine.here / "config.yaml").write_text("")
    assert machine.run("train.sh").returncode == 0
    assert job_arguments(machine) == ["--config", "config.yaml"]


def test_the_projects_config_is_the_default_where_the_folder_has_none(machine: Machine) -> None:
    assert machine.run("train.sh", "--set", "a=b c", "--restart").returncode == 0
    config = str(PROJECT / "config.yaml")
    assert job_arguments(machine) == ["--set", "a=b c", "--restart", "--config", config]
    assert mounts(machine)[-1] == f'type=bind,"source={config}","target={config}",readonly'


def test_other_commands_pass_through_untouched(machine: Machine) -> None:
    machine.run("train.sh", "generate", "--help", "a 'quoted' word")
    assert job_arguments(machine) == ["generate", "--help", "a 'quoted' word"]


@pytest.mark.parametrize("command", ["validate", "preview", "prepare"])
def test_a_command_about_data_alone_has_the_default_config_and_needs_no_gpu(machine: Machine, command: str) -> None:
    (machine.here / "config.yaml").write_text("")
    (machine.path / "nvidia-smi").unlink()
    assert machine.run("train.sh", command).returncode == 0
    assert job_arguments(machine) == [command, "--config", "config.yaml"]
    assert "--gpus" not in machine.noted("run")


def test_exactly_three_folders_are_mounted_and_the_job_is_read_only(machine: Machine) -> None:
    (machine.here / "config.yaml").write_text("")
    machine.run("train.sh")
    assert mounts(machine) == [
        f'type=bind,"source={machine.here}","target=/job",readonly',
        f'type=bind,"source={machine.here}/outputs","target=/outputs"',
        f'type=bind,"source={machine.home}/.cache/gptoss_ft","target=/cache"',
    ]
    assert (machine.here / "outputs").is_dir()
    assert (machine.home / ".cache/gptoss_ft").is_dir()


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
@pytest.mark.parametrize("path", ["conf/a b.yaml", "./conf/../conf/a b.yaml", "{here}/conf/a b.yaml"])
def test_a_config_in_the_folder_is_named_relative_to_it(machine: Machine, form: list[str], path: str) -> None:
    (machine.here / "conf").mkdir()
    (machine.here / "conf/a b.yaml").write_text("")
    machine.run("train.sh", *(word.format(path.format(here=machine.here)) for word in form))
    assert job_arguments(machine) == ["--config", "conf/a b.yaml"]
    assert len(mounts(machine)) == 3


def test_a_config_elsewhere_is_mounted_at_its_own_path(machine: Machine, tmp_path: Path) -> None:
    outside = tmp_path / "other, place.yaml"
    outside.write_text("")
    (machine.here / "link.yaml").symlink_to(outside)
    for given in (str(outside), f"../{outside.name}", "link.yaml"):
        machine.run("train.sh", "--config", given)
        assert job_arguments(machine) == ["--config", str(outside)]
        assert mounts(machine)[-1] == f'type=bind,"source={outside}","target={outside}",readonly'


def test_a_missing_config_is_a_usage_error(machine: Machine) -> None:
    answer = machine.run("train.sh", "--config", "nowhere.yaml")
    assert answer.returncode == 2
    assert "there is no config file nowhere.yaml" in answer.stderr
    assert machine.noted("run") == []


def test_values_of_secrets_are_never_on_the_command_line(machine: Machine) -> None:
    secrets = {"HF_TOKEN": "hf_hidden", "WANDB_API_KEY": "w_hidden", "WANDB_MODE": "offline", "https_proxy": "p_hidden"}
    machine.run("train.sh", **secrets)
    assert set(passed_names(machine)) == set(secrets)
    assert "_hidden" not in "\n".join(machine.noted("run"))


def test_the_container_has_no_privileges_and_a_read_only_root(machine: Machine) -> None:
    machine.run("train.sh")
    run = machine.noted("run")
    for words in (
        ["--cap-drop", "ALL"],
        ["--security-opt", "no-new-privileges"],
        ["--gpus", "all"],
        ["--pull", "never"],
    ):
        assert run[run.index(words[0]) + 1] == words[1]
    assert "--read-only" in run
    assert "--tty" not in run
    assert run[run.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    assert "GPTOSS_FT_IMAGE_ID=sha256:feed" in run
    assert [int(word.partition("=")[2], 8) for word in run if word.startswith("GPTOSS_FT_UMASK=")] == [current_umask()]


def current_umask() -> int:
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


def test_gpus_are_chosen_as_docker_reads_them(machine: Machine) -> None:
    for chosen, expected in (("2", "2"), ("device=0,1", '"device=0,1"')):
        machine.run("train.sh", GPUS=chosen)
        run = machine.noted("run")
        assert run[run.index("--gpus") + 1] == expected


def test_without_gpus_no_driver_is_needed(machine: Machine) -> None:
    (machine.path / "nvidia-smi").unlink()
    machine.answer("info", "{}")
    assert machine.run("train.sh", GPUS="none").returncode == 0
    assert "--gpus" not in machine.noted("run")


def test_docker_run_args_are_words_as_in_a_shell(machine: Machine) -> None:
    machine.run("train.sh", DOCKER_RUN_ARGS="-v '/my data:/data:ro'  --ipc host")
    run = machine.noted("run")
    assert run[run.index("gptoss_ft:latest") - 4 : run.index("gptoss_ft:latest")] == [
        "-v",
        "/my data:/data:ro",
        "--ipc",
        "host",
    ]
    answer = machine.run("train.sh", DOCKER_RUN_ARGS="-v '/my data")
    assert answer.returncode == 2
    assert "DOCKER_RUN_ARGS holds a quote that is not closed" in answer.stderr


def test_what_is_piped_in_reaches_the_job(machine: Machine) -> None:
    machine.run("train.sh", "generate", stdin="a prompt\n")
    assert "--interactive" in machine.noted("run")
    assert machine.noted("stdin") == ["a prompt"]


def test_what_is_redirected_from_a_file_reaches_the_job(machine: Machine) -> None:
    question = machine.here / "question.txt"
    question.write_text("a prompt\n")
    with question.open() as stdin:
        subprocess.run(
            machine.command("train.sh", "generate"), cwd=machine.here, env=machine.environment(), stdin=stdin,
            capture_output=True, timeout=60, check=True,
        )  # fmt: skip
    assert "--interactive" in machine.noted("run")
    assert machine.noted("stdin") == ["a prompt"]


def test_a_closed_standard_input_is_an_empty_one(machine: Machine) -> None:
    script = machine.project / "train.sh"
    answer = subprocess.run(
        [str(machine.path / "bash"), "-c", 'exec bash "$0" <&-', str(script)],
        cwd=machine.here, env=machine.environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    ("docker", "ours"), [(0, 0), (1, 1), (3, 3), (75, 75), (125, 4), (126, 4), (127, 4), (137, 137)]
)
def test_exit_codes_pass_and_dockers_own_become_4(machine: Machine, docker: int, ours: int) -> None:
    machine.answer("run.code", docker)
    assert machine.run("train.sh").returncode == ours


def without_docker(machine: Machine) -> None:
    (machine.path / "docker").unlink()


def without_driver(machine: Machine) -> None:
    (machine.path / "nvidia-smi").unlink()


def with_old_driver(machine: Machine) -> None:
    machine.program("nvidia-smi", "#!/bin/sh\necho 550.54.15\necho 550.54.15\n")


def with_broken_driver(machine: Machine) -> None:
    machine.program("nvidia-smi", "#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (without_docker, "docker is not on PATH; install Docker Engine"),
        (lambda machine: machine.answer("engine", "Cannot connect to the Docker daemon"), "engine does not answer"),
        (lambda machine: machine.answer("engine", "permission denied while trying"), "usermod -aG docker"),
        (lambda machine: machine.answer("image.code", 1), "there is no image gptoss_ft:latest; build it first"),
        (without_driver, "nvidia-smi is not on PATH"),
        (with_old_driver, "driver is 550.54.15 and CUDA 13.0 needs 580"),
        (with_broken_driver, "nvidia-smi says: NVIDIA-SMI has failed"),
        (lambda machine: machine.answer("info", '{"Runtimes":{"runc":{}}}'), "install the NVIDIA Container Toolkit"),
    ],
)
def test_an_unfit_machine_is_one_sentence_and_code_4(
    machine: Machine, broken: Callable[[Machine], None], sentence: str
) -> None:
    broken(machine)
    answer = machine.run("train.sh")
    assert answer.returncode == 4
    assert sentence in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert machine.noted("run") == []


def test_gpus_that_docker_found_by_itself_are_enough(machine: Machine) -> None:
    machine.answer("info", '{"Runtimes":{},"DiscoveredDevices":[{"Source":"cdi","ID":"nvidia.com/gpu=0"}]}')
    assert machine.run("train.sh").returncode == 0


def stop_timeout(machine: Machine) -> str:
    run = machine.noted("run")
    return run[run.index("--stop-timeout") + 1]


@pytest.mark.parametrize(("grace", "wait"), [("30.0", "35"), ("90", "95"), ("0.4", "5"), ("no number", "35")])
def test_docker_stop_waits_for_the_grace_period_and_five_seconds(machine: Machine, grace: str, wait: str) -> None:
    """The image, which alone can read the config, is asked for it, without a GPU."""
    (machine.here / "config.yaml").write_text("")
    machine.answer("grace", f"{grace}\n")
    answer = machine.run("train.sh", "--set", "lora.r=4", "--restart", "--set=lora.alpha=8")
    assert answer.returncode == 0
    assert stop_timeout(machine) == wait
    told = "the image does not answer what training.grace_seconds is (code 0); docker stop will wait 35 s"
    assert (told in answer.stderr) == (grace == "no number")
    asked = machine.noted("setting")
    assert asked[asked.index("gptoss_ft:latest") + 1 :] == [
        "setting", "training.grace_seconds", "--set", "lora.r=4", "--set=lora.alpha=8", "--config", "config.yaml",
    ]  # fmt: skip
    assert "--gpus" not in asked


@pytest.mark.parametrize(("code", "told"), [(125, True), (124, True), (2, False)])
def test_an_image_that_does_not_answer_is_told_unless_the_config_is_wrong(
    machine: Machine, code: int, told: bool
) -> None:
    machine.answer("grace.code", code)
    answer = machine.run("train.sh")
    assert answer.returncode == 0
    assert (f"does not answer what training.grace_seconds is (code {code})" in answer.stderr) == told
    assert stop_timeout(machine) == "35"


def test_the_image_is_asked_for_no_longer_than_a_minute(machine: Machine) -> None:
    (machine.path / "timeout").unlink()
    machine.program(
        "timeout", '#!/bin/bash\necho "$@" >>"$FAKE/timeout"\n[[ $* == *" setting "* ]] && exit 124\nexec "${@:2}"\n'
    )
    answer = machine.run("train.sh")
    assert [line.partition(" docker run ")[0] for line in machine.noted("timeout") if " setting " in line] == [
        "--foreground 60"
    ]
    assert "(code 124); docker stop will wait 35 s" in answer.stderr


def test_what_there_may_be_once_is_kept_from_the_question(machine: Machine) -> None:
    """A terminal would end the answer's line otherwise; a name or a cidfile would be taken."""
    further = "-it -i --tty --interactive=true -d --cidfile /c --cidfile=/d --name n --name=m -a stdin --attach stdin"
    machine.run("train.sh", DOCKER_RUN_ARGS=f"-v '/my data:/data:ro' {further} --user 0:0")
    asked = machine.noted("setting")
    end = asked.index("gptoss_ft:latest")
    assert asked[end - 6 : end] == [
        "-v", "/my data:/data:ro", "--user", "0:0", "--env", "NVIDIA_VISIBLE_DEVICES=void",
    ]  # fmt: skip
    run = machine.noted("run")
    assert "--name=m" in run[: run.index("gptoss_ft:latest")]


def test_where_nothing_is_trained_the_config_is_not_asked(machine: Machine) -> None:
    assert machine.run("train.sh", "merge").returncode == 0
    assert stop_timeout(machine) == "35"
    assert machine.noted("setting") == []


@pytest.mark.parametrize(("sent", "arrives"), [("TERM", "TERM"), ("INT", "INT"), ("HUP", "TERM"), ("USR1", "USR1")])
@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("early", [False, True])
def test_a_signal_reaches_the_job_once(
    machine: Machine, start: Start, sent: str, arrives: str, whole_group: bool, early: bool
) -> None:
    """Also before the container runs; and the job's code, not the signal's, is the script's."""
    machine.answer("wait")
    machine.answer("run.code", 75)
    process = start("train.sh")
    machine.wait_for("run" if early else "started")
    number = signal.Signals[f"SIG{sent}"]
    if whole_group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(timeout=30) == 75
    assert machine.noted("signals") == [arrives]


def test_it_works_through_a_link_and_from_any_folder(machine: Machine, tmp_path: Path) -> None:
    link = tmp_path / "a link"
    link.symlink_to(PROJECT / "train.sh")
    answer = subprocess.run(
        [str(machine.path / "bash"), "-u", str(link)], cwd=machine.here, env=machine.environment(),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert job_arguments(machine) == ["--config", str(PROJECT / "config.yaml")]


def test_a_home_that_is_not_set_is_looked_up(machine: Machine) -> None:
    environment = machine.environment(GPTOSS_FT_CACHE=str(machine.home / "c"))
    del environment["HOME"]
    answer = subprocess.run(
        machine.command("train.sh"), cwd=machine.here, env=environment,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr


def test_help_is_the_scripts_own_and_needs_nothing(machine: Machine) -> None:
    without_docker(machine)
    answer = machine.run("train.sh", "--help")
    assert answer.returncode == 0
    assert answer.stdout.startswith("Run a job in the container")
    assert "OUTPUT_ROOT" in answer.stdout
    assert "set -euo" not in answer.stdout
