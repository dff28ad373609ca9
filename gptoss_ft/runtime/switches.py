"""What is done at a run's end, as PUSH_TO_HUB and RUN_EVALUATION say: yes, no, or what the config says."""

import os

from gptoss_ft.errors import SettingError

# What PUSH_TO_HUB and RUN_EVALUATION take.
SWITCHES = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def check_switches() -> None:
    """`SettingError` for a variable that says neither: found out before the hours at whose end it is asked."""
    for variable in ("PUSH_TO_HUB", "RUN_EVALUATION"):
        _switch(variable)


def push_wanted(configured: bool) -> bool:
    """`hub.push`, unless PUSH_TO_HUB says otherwise."""
    switch = _switch("PUSH_TO_HUB")
    return configured if switch is None else switch


def push_demanded() -> bool:
    """Whether PUSH_TO_HUB says yes."""
    return _switch("PUSH_TO_HUB") is True


def evaluation_wanted() -> bool:
    """Whether a run evaluates and asks its prompts at its end: unless RUN_EVALUATION says no."""
    return _switch("RUN_EVALUATION") is not False


def _switch(variable: str) -> bool | None:
    """Yes or no, as a variable says; None where it is not set. `SettingError` for another word."""
    value = os.environ.get(variable, "").strip()
    if not value:
        return None
    if value.lower() not in SWITCHES:
        words = ", ".join(SWITCHES)
        raise SettingError(
            f"{variable}={value}: wanted yes or no, as one of {words}", f"Set {variable} anew, or unset it."
        )
    return SWITCHES[value.lower()]
