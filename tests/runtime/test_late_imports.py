"""A command imports what it needs, and nothing heavier."""

import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_ft.runtime import stock_environment


@pytest.mark.parametrize(
    ("arguments", "code", "heavy"),
    [
        (["--help"], 0, []),
        (["train", "--help"], 0, []),
        (["schema"], 0, []),
        (["validate", "--config-only", "--config", "job.yaml"], 0, []),
        (["validate", "--config-only", "--config", "nope.yaml"], 2, []),
        # The data's first rows are checked before it asks for a GPU; torch says that there is none.
        (["train", "--config", "job.yaml", "--set", "model.device=cuda"], 4, ["numpy", "pyarrow", "torch"]),
    ],
)
def test_a_command_imports_what_it_needs(arguments: list[str], code: int, heavy: list[str], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("model: {name: tiny/gpt-oss}\ndataset: {path: tiny/multilingual-thinking}\n")
    (tmp_path / "docs").mkdir()
    script = (
        "import sys\n"
        "from gptoss_ft.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    wanted = ('torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'unsloth', 'peft', 'trl',\n"
        "              'huggingface_hub', 'httpx', 'jinja2', 'tokenizers', 'pandas')\n"
        "    print([name for name in wanted if name in sys.modules], file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path, env=stock_environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    imported = set(eval(ended.stderr.splitlines()[-1]))
    if heavy:
        assert imported >= set(heavy)
        assert not imported & {"transformers", "datasets", "unsloth", "peft", "trl", "pandas"}
    else:
        assert imported == set()
