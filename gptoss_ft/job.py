"""The story of a run: one YAML file in, a fine-tuned model out. Read this first.

This half goes as far as Unsloth's import, so that what can be wrong without it is told at once: the config, the
device, the token to push with, the data's place and columns, the output folder. While Unsloth is imported, another
process prepares the data and a thread reads the weights. `finetuning.py` tells the rest.
"""

from dataclasses import dataclass
from pathlib import Path

from gptoss_ft.config import LoadedConfig
from gptoss_ft.data.ahead import data_ahead
from gptoss_ft.data.entries import open_entries
from gptoss_ft.data.intake import check_first_rows
from gptoss_ft.model.read_ahead import read_weights_ahead
from gptoss_ft.publishing.hub import lacks_token, push, push_target
from gptoss_ft.publishing.model_card import check_card, write_card
from gptoss_ft.publishing.run_facts import read_facts
from gptoss_ft.reporting import narration
from gptoss_ft.reporting.console import LIBRARIES_LOG, make_console, quiet_libraries
from gptoss_ft.reporting.output_folder import AS_EVER, Start, claimed_folder
from gptoss_ft.runtime import find_device, import_unsloth, prepare_environment, remember_changing_sizes


@dataclass(frozen=True)
class RunResult:
    """What a finished run left: its folder, the adapter in it, and the logged losses in nats a token."""

    folder: Path
    final_model: Path
    losses: list[float]


def train(loaded: LoadedConfig, start: Start = AS_EVER) -> RunResult:
    """Run the whole job. Raises `JobError` for everything that a user can mend; `key` names its setting."""
    job, console = loaded.job, make_console()
    narration.show_config(console, loaded)
    prepare_environment()
    device = find_device(job.model.device)
    check_card(job)
    repo_id = push_target(job)
    entries = open_entries(job)
    check_first_rows(entries)

    with claimed_folder(job, start) as output, data_ahead(job) as ahead:
        narration.show_start(console, device, output, "nowhere: HF_TOKEN is not set" if lacks_token(job) else repo_id)
        with quiet_libraries(output.path / LIBRARIES_LOG):
            read_weights_ahead(job.model)
            remember_changing_sizes(f"{job.model.name}, load_in_4bit: {job.model.load_in_4bit}")
            import_unsloth(device)
            with narration.preparing(console) as progress:
                ahead.wait(progress)
            # It imports transformers, trl and peft, which Unsloth must come before.
            from gptoss_ft.finetuning import finetune

            tuned = finetune(job, entries, device, output, console)
        # Last, because it tells of all before it; without it the same command has still something to do.
        write_card(tuned.final_model, read_facts(output.path), job, "adapter", repo_id)
        tuned.manifest.write("finished")
        narration.show_end(console, tuned.memory, device, tuned.final_model)
        if repo_id is not None:
            narration.show_pushed(console, push(tuned.final_model, repo_id, job))
    return RunResult(output.path, tuned.final_model, tuned.losses)
