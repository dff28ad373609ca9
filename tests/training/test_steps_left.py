"""How many steps a job has, against transformers' own count."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from gptoss_ft.config import TrainingSection
from gptoss_ft.planning.steps import steps_in_all


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 24])
@pytest.mark.parametrize("epochs", [0.5, 1.0, 1.3, 3.0])
def test_steps_are_counted_as_transformers_does(rows: int, epochs: float, tmp_path: Path) -> None:
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=epochs,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        remove_unused_columns=False,
    )
    trainer = Trainer(torch.nn.Linear(1, 1), arguments, train_dataset=Dataset.from_dict({"x": list(range(rows))}))
    wanted = trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())[-1]
    training = TrainingSection(
        max_steps=None, num_train_epochs=epochs, per_device_train_batch_size=2, gradient_accumulation_steps=2
    )
    assert steps_in_all(training, rows) == wanted


def test_a_number_of_steps_is_what_it_is() -> None:
    assert steps_in_all(TrainingSection(max_steps=5), 100) == 5
