"""The story of a run: one YAML file in, a fine-tuned model out. Read this first.

config → device → data → base model → adapters → training → final_model, and a report of each.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from gptoss_ft.config import LoadedConfig
from gptoss_ft.data.adapters import check_columns
from gptoss_ft.data.sources import open_source
from gptoss_ft.errors import Interrupted
from gptoss_ft.reporting import manifest, narration
from gptoss_ft.reporting.console import LIBRARIES_LOG, make_console, quiet_libraries
from gptoss_ft.reporting.memory_report import make_memory_report, reserved_gib, write_memory_report
from gptoss_ft.reporting.output_folder import open_folder, refuse_other_data
from gptoss_ft.reporting.step_log import StepLog
from gptoss_ft.runtime import direct_wandb, find_device, import_unsloth, prepare_environment, release_cached_memory


@dataclass(frozen=True)
class RunResult:
    """What a finished run left: its folder, the adapter in it, and the logged losses in nats a token."""

    folder: Path
    final_model: Path
    losses: list[float]


def train(loaded: LoadedConfig, restart: bool = False) -> RunResult:
    """Run the whole job. Raises `JobError` for everything that a user can mend; `key` names its setting."""
    job, console = loaded.job, make_console()
    narration.show_config(console, loaded)
    prepare_environment()
    device = find_device(job.model.device)
    source = open_source(job.dataset)
    check_columns(job.dataset, source.columns)
    output = open_folder(job, restart)
    narration.show_start(console, device, output)

    with quiet_libraries(output.path / LIBRARIES_LOG):
        import_unsloth(device)
        # These import transformers, trl and peft, which Unsloth must come before.
        from gptoss_ft.data.prepare import make_renderer, prepare
        from gptoss_ft.data.tokenizer import load_tokenizer
        from gptoss_ft.model.building import build_model
        from gptoss_ft.model.loading import find_repository
        from gptoss_ft.model.lora import adapter_facts
        from gptoss_ft.publishing.adapter import save_final_model
        from gptoss_ft.publishing.hub import push, push_target
        from gptoss_ft.training.callbacks import StepReporter
        from gptoss_ft.training.tracking import run_name, trackers
        from gptoss_ft.training.trainer import build_trainer, run

        repo_id = push_target(job)
        repository = find_repository(job.model)
        tokenizer = load_tokenizer(repository, job.model.revision, job.model.chat_template)
        data = prepare(job.dataset, source, make_renderer(tokenizer, job), job.model.max_seq_length)
        refuse_other_data(output, data.fingerprint)
        narration.show_data(console, data)

        model = build_model(job, repository, device, console)
        facts = adapter_facts(model)
        narration.show_model(console, job, repository, model, facts)

        record = manifest.new_manifest(job, device, data.as_json(), {"repository": repository, **asdict(facts)})
        manifest.write_manifest(output.path, record, "running")
        direct_wandb(output.path, job.tracking.project)
        trainer = build_trainer(model, tokenizer, data, job, output.path, trackers(job), run_name(job))
        narration.show_training(console, trainer, job, trackers(job))
        reporter = StepReporter(StepLog(output, console), device, output.path)
        release_cached_memory(device)
        before, started = reserved_gib(device), time.monotonic()
        if not run(trainer, reporter, output.resume_from):
            manifest.write_manifest(output.path, record, "interrupted")
            done = f"{trainer.state.global_step} of {trainer.state.max_steps} steps"
            raise Interrupted(f"interrupted after {done}, the state is saved", "The same command continues.")
        seconds = time.monotonic() - started
        release_cached_memory(device)
        final = save_final_model(model, tokenizer, output.path)
        memory = make_memory_report(device, before, seconds)
        write_memory_report(output.path, memory)
        manifest.write_manifest(output.path, record, "finished", result=trainer.state.log_history[-1])
    narration.show_end(console, memory, device, output.path)
    if repo_id is not None:
        narration.show_pushed(console, push(final, repo_id, job.hub.private))
    return RunResult(output.path, final, reporter.losses)
