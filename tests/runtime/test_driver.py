"""Which driver a GPU is used through."""

from pathlib import Path

import pytest

from gptoss_ft.runtime.driver import driver_version

PROC_OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build  (dvs-builder@U22)  Wed Aug 27\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
)
PROC_CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.133.20  Sun Mar 30 03:14:59 UTC 2025\n"


@pytest.mark.parametrize(("text", "driver"), [(PROC_OPEN, "580.82.07"), (PROC_CLOSED, "570.133.20")])
def test_the_driver_is_what_the_kernel_has_loaded(text: str, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: text)
    assert driver_version() == driver
