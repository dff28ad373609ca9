"""The second half of a run, from the tokenizer to final_model; imported after Unsloth.

data → base model → adapters → training → final_model, and a report of each.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from gptoss_ft.config import JobConfig, write_job_file
from gptoss_ft.data.entries import Entry
from gptoss_ft.data.packing import fill_rows
from gptoss_ft.data.prepare import prepare
from gptoss_ft.data.tokenizer import load_job_tokenizer
from gptoss_ft.errors import Interrupted
from gptoss_ft.inference.evaluate import evaluate_split, require_held_out
from gptoss_ft.inference.samples import samples_after, samples_before, show_samples
from gptoss_ft.model.attention import document_attention
from gptoss_ft.model.building import build_model
from gptoss_ft.model.lora import adapter_facts, load_existing
from gptoss_ft.model.nf4_experts import are_fused
from gptoss_ft.model.repository import find_repository
from gptoss_ft.planning.disk import refuse_too_little_disk
from gptoss_ft.planning.known_lengths import remember
from gptoss_ft.planning.run_plan import cannot_pack, plan_run
from gptoss_ft.publishing.adapter import save_final_model
from gptoss_ft.reporting import narration
from gptoss_ft.reporting.evaluation_report import EVALUATION, show_evaluation
from gptoss_ft.reporting.files import write_json
from gptoss_ft.reporting.manifest import Manifest
from gptoss_ft.reporting.memory_report import MemoryReport, make_memory_report, start_measuring, write_memory_report
from gptoss_ft.reporting.output_folder import FINAL_MODEL, OutputFolder
from gptoss_ft.reporting.same_job import REVISION, data_changes, resolved_changes, weights_changes
from gptoss_ft.reporting.step_log import StepLog
from gptoss_ft.reporting.trainer_state import better_checkpoint
from gptoss_ft.runtime import Device, direct_wandb, evaluation_wanted, limit_gpu_memory, release_cached_memory
from gptoss_ft.training.arguments import as_resolved
from gptoss_ft.training.callbacks import StepReporter
from gptoss_ft.training.steps_left import refuse_half_trained
from gptoss_ft.training.trainer import build_trainer, run


@dataclass(frozen=True)
class Tuned:
    """The adapter's folder, every logged loss (nats a token), what memory it took, and the run's manifest, in which it
    has not yet finished."""

    final_model: Path
    losses: list[float]
    memory: MemoryReport
    manifest: Manifest


def finetune(job: JobConfig, entries: Sequence[Entry], device: Device, output: OutputFolder, console: Console) -> Tuned:
    """Train the job and write its output folder. `Interrupted` when a signal ended it early, its state saved."""
    repository = find_repository(job.model)
    tokenizer = load_job_tokenizer(job.model)
    with narration.preparing(console) as progress:
        data = prepare(job, entries, tokenizer, progress)
    data_facts = data.summary.as_facts()
    output = output.accepting(data_changes(output.earlier, data_facts), "dataset.path")
    narration.show_data(console, data.summary, job)
    if job.training.eval_steps is not None:
        require_held_out(data, "Set dataset.eval_fraction, or null for training.eval_steps.")

    full_rows = fill_rows(data.train, job) if job.training.packing else None
    if full_rows is not None:
        narration.show_packing(console, full_rows, job)
    if job.datasets[0].prepared is None:
        remember(job, data.summary)
    planned = plan_run(job, repository, data.summary, device)
    narration.show_plan_of_run(console, planned)
    rows = data.train.num_rows if full_rows is None else len(full_rows.members)
    refuse_too_little_disk(job, repository, rows, output.path)

    limit_gpu_memory(device, job.performance.memory_limit_gib)
    model = build_model(job, repository, device, console, planned.offload)
    facts = adapter_facts(model)
    narration.show_model(console, job, repository, model, facts, are_fused())

    # The commit of the hub's repository; None for a folder.
    base = {"repository": repository, "commit": getattr(model.config, "_commit_hash", None)}
    resolved = as_resolved(job, model.dtype, output.path)
    output = output.accepting(weights_changes(output.earlier, base["commit"]), REVISION)
    output = output.accepting(resolved_changes(output.earlier, resolved), "model.dtype")
    refuse_half_trained(output, job.training, rows)
    output = output.gone_back()
    narration.show_differences(console, output)
    manifest = Manifest(output.path, job, device, data_facts, {**base, **asdict(facts)}, output.history)
    manifest.write("running", resolved=resolved)
    write_job_file(job, output.path)
    direct_wandb(output.path, job.tracking.project)
    asks = bool(job.evaluation.prompts) and evaluation_wanted()
    if asks:
        samples_before(model, tokenizer, job, output.path)
        release_cached_memory(device)
    attention = document_attention(model)
    plan = planned.plan
    if attention is None and full_rows is not None:
        raise cannot_pack()
    if attention is None and plan.rows == "packed":
        plan = plan.padded()
        narration.show_padded_instead(console, plan)
    replanned = partial(narration.show_replanned, console)
    trainer = build_trainer(model, tokenizer, data, job, output.path, device, plan, attention, replanned, full_rows)
    narration.show_training(console, trainer, job)

    log = StepLog(output, console)
    # Read now: training may remove the checkpoint.
    baseline, started = start_measuring(device), time.monotonic() - output.earlier_seconds
    if output.is_complete(job.training):
        # Stopped between its last step and final_model: another step would be one too many.
        assert output.resume_from is not None
        load_existing(model, str(output.resume_from))
        trainer.load_totals(output.resume_from)
    elif not run(trainer, StepReporter(log, device, job.training.loss_alarm), output.resume_from):
        manifest.write("interrupted")
        raise Interrupted(trainer.stop.told(trainer.state), output.start.how_to_continue())
    if job.training.load_best_model_at_end and (best := better_checkpoint(output.path)):
        narration.show_best(console, best)
        if best.wrong is None:
            load_existing(model, str(best.path))
    seconds = time.monotonic() - started

    release_cached_memory(device)
    final_model = save_final_model(model, tokenizer, job, output.path)
    memory = make_memory_report(device, baseline, seconds)
    write_memory_report(output.path, memory)
    evaluation = None
    if data.eval.num_rows and evaluation_wanted():
        # From here on nothing is lost: without it, or with RUN_EVALUATION=false, the same command ends the job.
        narration.show_evaluating(console, data.eval.num_rows)
        report = evaluate_split(model, tokenizer, data, job, FINAL_MODEL, at_once=trainer.evaluated_at_once)
        show_evaluation(console, report)
        evaluation = report.as_facts()
        write_json(output.path / EVALUATION, evaluation)
    if asks:
        show_samples(console, samples_after(model, tokenizer, job, output.path))
    result = asdict(log.records[-1]) if log.records else None
    manifest.write("running", result=result, evaluation=evaluation)
    return Tuned(final_model, [record.loss for record in log.records], memory, manifest)
