"""Runs that end before their last step: real signals to real processes, and a time limit."""

import importlib.util
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from forked_jobs import PROJECT, ForkedJobs, Job
from transformers import TrainerControl, TrainerState

from gptoss_ft.config import TrainingSection, load_job_config
from gptoss_ft.job import train
from gptoss_ft.training import interruption
from gptoss_ft.training.checkpoints import FIRST_SECONDS, CheckpointWriter
from gptoss_ft.training.interruption import SIGNALS, StepAbandoned, StopRequest, stop_on_signal

JOB = """
model: {{name: tiny/gpt-oss, max_seq_length: 256, load_in_4bit: false, dtype: float32, device: cpu}}
dataset: {{path: tiny/multilingual-thinking, max_samples: 16}}
lora: {{dropout: 0.1, target_modules: [q_proj, k_proj, v_proj, o_proj]}}
training: {{max_steps: {steps}, per_device_train_batch_size: {batch}, gradient_accumulation_steps: {accumulated},
           learning_rate: 5e-3, warmup_steps: 1, optim: adamw_torch_fused, save_steps: {save_steps},
           output_dir: run{more}}}
performance: {{plan: off}}
tracking: {{report_to: none}}
"""
# Half of the samples, one at a time: two steps to an epoch, each of several micro-batches.
LONG_STEPS = {"steps": 4, "batch": 1, "accumulated": 8, "save_steps": 9999}
SHORT_STEPS = {"steps": 3, "batch": 2, "accumulated": 1, "save_steps": 9999}

Start = Callable[..., Job]


@pytest.fixture(scope="module")
def jobs() -> Iterator[ForkedJobs]:
    jobs = ForkedJobs()
    yield jobs
    jobs.end()


@pytest.fixture(scope="module")
def tiny_runs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_runs", PROJECT / "benchmarks" / "tiny_runs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start(jobs: ForkedJobs) -> Iterator[Start]:
    """Start the job of a folder, which is made with `settings`; one that is there is continued."""
    started: list[Job] = []

    def start(folder: Path, settings: dict[str, int], more: str = "", code: str = "") -> Job:
        folder.mkdir(exist_ok=True)
        (folder / "job.yaml").write_text(JOB.format(**settings, more=more))
        started.append(jobs.start(folder, code))
        return started[-1]

    yield start
    for job in started:
        if Path(f"/proc/{job.pid}").exists():
            job.send(signal.SIGKILL)
            job.exit_code()


@pytest.fixture(scope="module")
def whole_run(jobs: ForkedJobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of long steps that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "job.yaml").write_text(JOB.format(**LONG_STEPS, more=", grace_seconds: 0"))
    assert jobs.start(folder).exit_code() == 0
    return folder / "outputs" / "run"


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "outputs" / "run").glob("checkpoint-*"))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_after_its_step_and_the_same_command_ends_the_job(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    job = start(tmp_path / "job", SHORT_STEPS)
    job.wait_for(lambda: job.log)
    job.send(number)
    assert job.exit_code() == 75
    found = re.search(
        r"stopped: interrupted after (\d) of 3 steps, the state is saved The same command cont", job.screen
    )
    assert found is not None, job.screen
    assert checkpoints(job.folder) == [f"checkpoint-{found[1]}"]
    assert len(job.log) == int(found[1])
    monkeypatch.chdir(job.folder)
    train(load_job_config(Path("job.yaml"), []))
    assert [line["step"] for line in job.log] == [1, 2, 3]


def test_a_step_that_does_not_end_in_time_is_given_up_and_nothing_is_lost(
    start: Start, tmp_path: Path, tiny_runs: ModuleType, whole_run: Path
) -> None:
    """In the first step of an epoch, whose order is drawn before it, and with dropout."""
    more = ", grace_seconds: 0"
    job = start(tmp_path / "job", LONG_STEPS, more)
    job.wait_for(lambda: len(job.log) == 2)
    job.send(signal.SIGTERM)
    assert job.exit_code() == 75
    assert "interrupted after 2 of 4 steps, the state is saved" in job.screen
    assert checkpoints(job.folder) == ["checkpoint-2"]
    again = start(job.folder, LONG_STEPS, more)
    assert again.exit_code() == 0, again.screen
    assert tiny_runs.differences(whole_run, job.folder / "outputs" / "run") == []


def test_a_step_is_given_up_right_before_the_optimizers(
    start: Start, tmp_path: Path, tiny_runs: ModuleType, whole_run: Path
) -> None:
    """On a GPU most of a step is waited for there."""
    more = ", grace_seconds: 0"
    code = """
import os, signal
from gptoss_ft.training import counting_trainer
norm = counting_trainer.CountingTrainer._get_grad_norm
def signalled(self, *args, **kwargs):
    if self.state.global_step == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return norm(self, *args, **kwargs)
counting_trainer.CountingTrainer._get_grad_norm = signalled
"""
    job = start(tmp_path / "job", LONG_STEPS, more, code)
    assert job.exit_code() == 75
    assert "interrupted after 2 of 4 steps, the state is saved" in job.screen
    assert checkpoints(job.folder) == ["checkpoint-2"]
    again = start(job.folder, LONG_STEPS, more)
    assert again.exit_code() == 0, again.screen
    assert tiny_runs.differences(whole_run, job.folder / "outputs" / "run") == []


def test_before_a_step_is_done_there_is_nothing_to_save(start: Start, tmp_path: Path) -> None:
    # Sent by the job itself when its first micro-batch begins.
    code = """
import os, signal
from gptoss_ft.training import planned_trainer
compute = planned_trainer.PlannedTrainer._one_of
def first(self, *args):
    os.kill(os.getpid(), signal.SIGUSR1)
    return compute(self, *args)
planned_trainer.PlannedTrainer._one_of = first
"""
    job = start(tmp_path / "job", LONG_STEPS, ", grace_seconds: 0", code)
    assert job.exit_code() == 75
    assert "interrupted after 0 of 4 steps, before there was a state to save" in job.screen
    assert checkpoints(job.folder) == []


def test_a_second_signal_ends_the_run_at_once_and_the_last_checkpoint_is_kept(start: Start, tmp_path: Path) -> None:
    # Sent by the job itself, so that both come within one step.
    code = """
import os, signal
from gptoss_ft.training import interruption, planned_trainer
interruption.SAME_SIGNAL_SECONDS = 0.0
compute = planned_trainer.PlannedTrainer._one_of
def twice(self, *args):
    if self.state.global_step == 1:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    return compute(self, *args)
planned_trainer.PlannedTrainer._one_of = twice
"""
    job = start(tmp_path / "job", {**SHORT_STEPS, "save_steps": 1}, code=code)
    assert job.exit_code() == 75
    assert "stopped: at once; steps since the last checkpoint, if any, are lost" in job.screen
    assert checkpoints(job.folder) in ([], ["checkpoint-1"])


def test_a_signal_in_the_optimizers_step_waits_for_its_end(start: Start, tmp_path: Path) -> None:
    code = """
import os, signal, torch
step = torch.optim.AdamW.step
def signalled(self, *args, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *args, **kwargs)
torch.optim.AdamW.step = signalled
"""
    job = start(tmp_path / "job", SHORT_STEPS, code=code)
    assert job.exit_code() == 75
    assert "interrupted after 1 of 3 steps, the state is saved" in job.screen
    state = torch.load(job.folder / "outputs/run/checkpoint-1/optimizer.pt", weights_only=True)["state"]
    assert {float(own["step"]) for own in state.values()} == {1.0}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_only_noted_until_the_step_ends(number: signal.Signals, tmp_path: Path) -> None:
    request = StopRequest(CheckpointWriter(tmp_path, None), TrainingSection())
    with stop_on_signal(request):
        os.kill(os.getpid(), number)
        # The same one twice at once is one.
        os.kill(os.getpid(), number)
        assert request.signal == number
        state, control = TrainerState(max_steps=9), TrainerControl()
        request.on_step_begin(None, state, control)
        request.on_step_end(None, state, control)
    assert control.should_save
    assert control.should_training_stop
    assert request.has_stopped


def test_another_signal_later_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = StopRequest(CheckpointWriter(tmp_path, None), TrainingSection())
    monkeypatch.setattr(interruption, "SAME_SIGNAL_SECONDS", 0.0)
    with stop_on_signal(request):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGHUP)


def test_processes_that_are_forked_off_do_not_inherit_the_handling(tmp_path: Path) -> None:
    with stop_on_signal(StopRequest(CheckpointWriter(tmp_path, None), TrainingSection())):
        child = os.fork()
        if child == 0:
            found = [signal.getsignal(number) for number in SIGNALS]
            wanted = [signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL for number in SIGNALS]
            os._exit(0 if found == wanted else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_one_that_is_ignored_stays_so(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal(StopRequest(CheckpointWriter(tmp_path, None), TrainingSection())) as _:
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_step_is_given_up_where_it_and_a_checkpoint_do_not_fit(tmp_path: Path) -> None:
    request = StopRequest(CheckpointWriter(tmp_path, None), TrainingSection(grace_seconds=FIRST_SECONDS + 20.0))
    assert not request.is_wanted
    request.heed(signal.SIGTERM)
    assert request.is_wanted
    request.give_up_unless_it_fits(19.0)
    with pytest.raises(StepAbandoned):
        request.give_up_unless_it_fits(20.5)
    assert request.told(TrainerState(global_step=3, max_steps=9)) == (
        "interrupted after 3 of 9 steps, the state is saved"
    )


def test_there_is_no_further_step_where_its_end_would_pass_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruption, "process_seconds", lambda: 30.0)
    now = [1000.0]
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now[0])
    request = StopRequest(CheckpointWriter(tmp_path, None), TrainingSection(time_limit=2))
    state, control = TrainerState(max_steps=9), TrainerControl()
    # 90 s are left, 3 of which a checkpoint is expected to take: four steps of 20 s.
    stopped = []
    for _ in range(4):
        request.on_step_begin(None, state, control)
        now[0] += 20.0
        request.on_step_end(None, state, control)
        stopped.append(control.should_training_stop)
    assert stopped == [False, False, False, True]
    assert request.told(TrainerState(global_step=4, max_steps=9)).startswith(
        "ended by training.time_limit after 4 of 9"
    )


def test_a_run_ends_itself_within_its_time_limit(start: Start, tmp_path: Path) -> None:
    minutes = 0.12
    code = "from gptoss_ft.training import checkpoints; checkpoints.FIRST_SECONDS = 0.5"
    job = start(tmp_path / "job", {**SHORT_STEPS, "steps": 9999}, f", time_limit: {minutes}", code)
    assert job.exit_code() == 75
    # Of training alone: the limit counts from the start of the process.
    assert 0 < job.log[-1]["seconds"] < 60 * minutes
    steps = len(job.log)
    assert f"stopped: ended by training.time_limit after {steps} of 9999 steps, the state is saved" in job.screen
    assert checkpoints(job.folder) == [f"checkpoint-{steps}"]


def test_a_time_limit_that_leaves_no_time_for_a_step_is_a_mistake(start: Start, tmp_path: Path) -> None:
    job = start(tmp_path / "job", SHORT_STEPS, ", time_limit: 0.01")
    assert job.exit_code() == 2
    assert re.search(
        r"job\.yaml:\d+:\d+: training\.time_limit: after [\d.]+ minutes there is no time left for a step", job.screen
    ), job.screen
    assert checkpoints(job.folder) == []


def evaluated(request: StopRequest, seconds: float, state: TrainerState) -> None:
    request.on_evaluate(None, state, TrainerControl(), metrics={"eval_loss": 1.0, "eval_runtime": seconds})


def test_a_step_is_given_up_where_the_evaluation_after_it_does_not_fit(tmp_path: Path) -> None:
    training = TrainingSection(grace_seconds=FIRST_SECONDS + 20.0, save_steps=4, eval_steps=4)
    request, state = StopRequest(CheckpointWriter(tmp_path, None), training), TrainerState(max_steps=11)
    evaluated(request, 15.0, state)
    evaluated(request, 5.0, state)
    request.heed(signal.SIGTERM)
    for step, seconds in ((4, 15.0), (5, 0.0), (8, 15.0), (11, 15.0)):
        state.global_step = step - 1
        request.on_step_begin(None, state, TrainerControl())
        request.give_up_unless_it_fits(19.0 - seconds)
        with pytest.raises(StepAbandoned):
            request.give_up_unless_it_fits(20.5 - seconds)


def test_an_evaluation_belongs_to_what_the_time_limit_must_leave_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruption, "process_seconds", lambda: 0.0)
    now = [1000.0]
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now[0])
    request = StopRequest(CheckpointWriter(tmp_path, None), TrainingSection(time_limit=2, eval_steps=2))
    state, control = TrainerState(max_steps=9), TrainerControl()
    stopped = []
    for step in (1, 2, 3):
        request.on_step_begin(None, state, control)
        now[0] += 20.0
        state.global_step = step
        request.on_step_end(None, state, control)
        stopped.append(control.should_training_stop)
        if step == 2:
            now[0] += 30.0
            evaluated(request, 30.0, state)
    # 30 s are left: too few for a step of 20 s with an evaluation of 30 s.
    assert stopped == [False, False, True]
