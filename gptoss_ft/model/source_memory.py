"""Unsloth asks for the source of the same functions again and again; here it is told what it heard before."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any


@contextmanager
def sources_remembered() -> Iterator[None]:
    """Let `inspect.getsource` read the source of a function once, for as long as this lasts.

    After adapters are on, unsloth_zoo 2026.10.9 (`requires_grad_for_gradient_checkpointing`) asks for the source of the
    `forward` of every adapted module, twice. gpt-oss-20b in 4 bits has 1,632 of them, with one `forward` for all, and
    reading a source is tokenizing it: half of the time that putting adapters on takes.
    tests/model/test_source_memory.py fails when it no longer asks.
    """
    original = inspect.getsource
    # By the identity of code, which the memory keeps alive: equal code may stand in two files.
    known: dict[int, tuple[CodeType, str]] = {}

    def getsource(asked: Any) -> str:
        code = getattr(inspect.unwrap(asked), "__code__", None)
        if not isinstance(code, CodeType):
            return original(asked)
        if id(code) not in known:
            known[id(code)] = (code, original(asked))
        return known[id(code)][1]

    inspect.getsource = getsource  # type: ignore[assignment]  # its parameter has another name
    try:
        yield
    finally:
        inspect.getsource = original
