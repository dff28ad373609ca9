"""Whether a checkpoint leaves a step to train, where the steps of an epoch are others than they were."""

from gptoss_ft.config import TrainingSection
from gptoss_ft.errors import OutputError
from gptoss_ft.planning.steps import steps_in_all
from gptoss_ft.reporting.output_folder import OutputFolder


def refuse_half_trained(output: OutputFolder, training: TrainingSection, rows: int) -> None:
    """`OutputError` where the job would end at once with its epochs not done: transformers counts the place in the data
    by steps, and as many as the checkpoint has would be all by now."""
    if output.resume_from is None or output.is_complete(training):
        return
    steps = steps_in_all(training, rows)
    if output.resume_step >= steps:
        raise OutputError(
            f"{training.num_train_epochs:g} epochs are {steps} steps by now, but {output.resume_from} is already of "
            f"step {output.resume_step}, and its epochs were not at their end",
            "Set more epochs, set batch and data back, or name an earlier checkpoint with --from.",
            "training.num_train_epochs",
        )
