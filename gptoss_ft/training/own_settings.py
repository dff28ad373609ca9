"""A run that goes on keeps its config's learning rate and weight decay.

A checkpoint's optimizer and scheduler hold those of the run before, from which `--allow-changed` lets it differ.
"""

from typing import Any

from torch.optim.lr_scheduler import LambdaLR


def own_settings(scheduler: LambdaLR) -> list[dict[str, Any]]:
    """What the config says of each group of parameters, before a checkpoint is loaded."""
    return [{key: group[key] for key in ("initial_lr", "weight_decay")} for group in scheduler.optimizer.param_groups]


def put_back(scheduler: LambdaLR, settings: list[dict[str, Any]]) -> None:
    """Set them again after it is loaded, and the learning rate of its step by the config's schedule: by the same
    product as torch's, so that one that did not change is the same to the bit."""
    scheduler.base_lrs = [own["initial_lr"] for own in settings]
    groups = scheduler.optimizer.param_groups
    for group, own, schedule in zip(groups, settings, scheduler.lr_lambdas, strict=True):
        group.update(own, lr=own["initial_lr"] * schedule(scheduler.last_epoch))
    scheduler._last_lr = [group["lr"] for group in groups]
