"""Set up once for all tests: no network, caches of their own, Unsloth imported before transformers on the CPU."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from gptoss_ft import runtime, tiny

# Started in the background, a shell's child ignores INT, and under `nohup` HUP: tests send both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
_CACHE = tempfile.mkdtemp(prefix="gptoss_ft_tests_")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ["GPTOSS_FT_CACHE"] = _CACHE
os.environ["HF_HOME"] = f"{_CACHE}/huggingface"
os.environ["HF_HUB_OFFLINE"] = "1"
for _variable in ("HF_TOKEN", "WANDB_API_KEY", "PUSH_TO_HUB", "RUN_EVALUATION", "GPTOSS_FT_OUTPUT_ROOT"):
    os.environ.pop(_variable, None)
runtime.prepare_environment()
DEVICE = runtime.find_device("cpu")
runtime.import_unsloth(DEVICE)


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
def samples_folder() -> Path:
    """Sample rows in the published data sets' schemas, in the folder that GPTOSS_FT_SAMPLES_DIR names."""
    folder = os.environ.get("GPTOSS_FT_SAMPLES_DIR")
    if not folder:
        pytest.skip("GPTOSS_FT_SAMPLES_DIR is not set")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def same_adapters_are_checked_once() -> Iterator[None]:
    """Every run ends with a process that puts its adapter on the stock model, 5 s long; of adapters with the same
    settings, names and shapes on the same config once is enough."""
    from gptoss_ft.model import portable

    check, seen = portable.check_portable, set[tuple[object, ...]]()

    def check_once(folder: Path, config_folder: Path) -> None:
        with safe_open(folder / portable.WEIGHTS, "pt") as file:
            shapes = tuple((name, *file.get_slice(name).get_shape()) for name in sorted(file.keys()))
        key = ((folder / portable.CONFIG).read_bytes(), (config_folder / "config.json").read_bytes(), shapes)
        if key not in seen:
            check(folder, config_folder)
            seen.add(key)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(portable, "check_portable", check_once)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where everything is there that a test could want, a skipped test is a failed one."""
    report = yield
    if report.skipped and os.environ.get("GPTOSS_FT_NO_SKIP") == "1":
        report.outcome = "failed"
    return report
