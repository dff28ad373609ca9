"""Optimizers whose state bitsandbytes keeps in paged memory, which moves to the host where the GPU's runs out."""

from typing import Any

# Of what an optimizer keeps of a parameter, what bitsandbytes 0.50.2 pages.
PAGED = ("state1", "state2")


def page_again(optimizer: Any) -> None:
    """Put state that was loaded into paged memory, wherever `optimizer` would have made it there.

    bitsandbytes' `load_state_dict` puts all of it into the GPU's own memory (0.50.2). Does nothing for optimizers that
    do not page, nor on a CPU.
    """
    if not getattr(optimizer, "is_paged", False):
        return
    for parameter, state in optimizer.state.items():
        for name in PAGED:
            if name in state:
                state[name] = _paged(optimizer, parameter, state[name])


def _paged(optimizer: Any, parameter: Any, value: Any) -> Any:
    """`value` in a buffer as the optimizer makes it for the parameter; itself where that is not paged."""
    buffer = optimizer.get_state_buffer(parameter, dtype=value.dtype)
    return buffer.copy_(value) if getattr(buffer, "is_paged", False) else value
