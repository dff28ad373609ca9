"""Set up once for all tests: no network, caches of their own, Unsloth imported before transformers on the CPU."""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from warm_processes import WarmProcesses

from gptoss_ft import runtime, tiny

# Their assertions tell as much as the tests' own.
pytest.register_assert_rewrite("answering_hub", "command_line", "config_files")
# Started in the background, a shell's child ignores INT, and under `nohup` HUP: tests send both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
_CACHE = tempfile.mkdtemp(prefix="gptoss_ft_tests_")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ["GPTOSS_FT_CACHE"] = _CACHE
os.environ["HF_HOME"] = f"{_CACHE}/huggingface"
os.environ["HF_HUB_OFFLINE"] = "1"
for _variable in (
    "HF_TOKEN", "WANDB_API_KEY", "PUSH_TO_HUB", "RUN_EVALUATION", "GPTOSS_FT_OUTPUT_ROOT",
    # Set where a process starts others to run tests in; each has a cache of its own.
    "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "UNSLOTH_COMPILE_LOCATION",
):  # fmt: skip
    os.environ.pop(_variable, None)
runtime.prepare_environment()
# On a GPU: what says so at its head (tests/training/test_planned_trainer.py).
DEVICE = runtime.find_device("cuda" if os.environ.get("GPTOSS_FT_TEST_DEVICE") == "cuda" else "cpu")
runtime.import_unsloth(DEVICE)

# They import transformers, which Unsloth must come before.
from openai_harmony import HarmonyEncoding  # noqa: E402
from transformers import PreTrainedTokenizerBase  # noqa: E402

from gptoss_ft.data.harmony_ranks import harmony_encoding  # noqa: E402
from gptoss_ft.data.tokenizer import load_tokenizer  # noqa: E402


@pytest.fixture(scope="session")
def device() -> runtime.Device:
    return DEVICE


@pytest.fixture(scope="session")
def tiny_gpt_oss() -> Path:
    return tiny.materialize("tiny/gpt-oss", runtime.cache_folder())


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    return tiny.materialize("tiny/llama", runtime.cache_folder())


@pytest.fixture(scope="session")
def real_tokenizer_folder() -> Path:
    """The real gpt-oss tokenizer, in the folder that GPTOSS_FT_TOKENIZER_DIR names."""
    folder = os.environ.get("GPTOSS_FT_TOKENIZER_DIR")
    if not folder:
        pytest.skip("GPTOSS_FT_TOKENIZER_DIR is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def real_tokenizer(real_tokenizer_folder: Path) -> PreTrainedTokenizerBase:
    """Loaded once, in seconds; not to be changed."""
    return load_tokenizer(str(real_tokenizer_folder), None, None)


@pytest.fixture(scope="session")
def harmony_of_real_tokenizer(real_tokenizer_folder: Path) -> HarmonyEncoding:
    return harmony_encoding(real_tokenizer_folder / "tokenizer.json")


@pytest.fixture(scope="session")
def samples_folder() -> Path:
    """Sample rows in the published data sets' schemas, in the folder that GPTOSS_FT_SAMPLES_DIR names."""
    folder = os.environ.get("GPTOSS_FT_SAMPLES_DIR")
    if not folder:
        pytest.skip("GPTOSS_FT_SAMPLES_DIR is not set")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def warm_processes() -> Iterator[WarmProcesses]:
    """The processes that commands start for their checks have the heavy libraries imported already."""
    warm = WarmProcesses()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(subprocess, "run", warm.run)
        yield warm
    warm.end()


@pytest.fixture
def cold_processes(warm_processes: WarmProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process is started as users start it."""
    monkeypatch.setattr(subprocess, "run", warm_processes.cold)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where everything is there that a test could want, a skipped test is a failed one."""
    report = yield
    if report.skipped and os.environ.get("GPTOSS_FT_NO_SKIP") == "1":
        report.outcome = "failed"
    return report
