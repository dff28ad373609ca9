"""How many optimizer steps a job has."""

import math

from gptoss_ft.config import TrainingSection


def steps_in_all(training: TrainingSection, rows: int) -> int:
    """Optimizer steps of a whole job on so many samples, or full rows, as transformers counts them."""
    if training.max_steps is not None:
        return training.max_steps
    assert training.num_train_epochs is not None
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    return math.ceil(training.num_train_epochs * math.ceil(rows / batch))
