"""Child processes that have imported the heavy libraries already.

Importing torch, transformers and PEFT takes 5 s of a core, with Unsloth 7 s, and a test that goes through the commands
starts up to seven processes for a second of work each. Here one process without Unsloth and one with it import once,
and every child is a fork of one of the two: with arguments, environment, streams and an exit code of its own, and
nothing done before it but imports. A fork with Unsloth that starts a child without it has that one warm, too.

    python warm_processes.py stock                      requests as JSON lines on stdin, exit codes as lines on stdout
    python warm_processes.py unsloth REQUESTS ANSWERS   the same, and the descriptors of such a stock process
"""

import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, Literal

Libraries = Literal["stock", "unsloth"]
PREFIX = "gptoss_ft_warm_"
# A child in which one of these variables differs is started anew: libraries read them while they are imported.
# Of Unsloth's, where it is imported.
READ_AT_IMPORT = (
    "ACCELERATE_", "BNB_", "CUDA", "GPTOSS_FT_CACHE", "HF_", "HOME", "KMP_", "LD_", "MKL_", "OMP_", "PYTORCH",
    "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TRITON_",
)  # fmt: skip
UNDERSTOOD = {"env", "capture_output", "stdout", "stderr", "text", "errors", "check"}
# Besides Unsloth, which imports most of them.
MODULES = (
    "bitsandbytes", "datasets", "openai_harmony", "peft", "pydantic", "rich.console", "ruamel.yaml", "torch",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.gpt_oss.modeling_gpt_oss", "transformers.models.llama.modeling_llama",
)  # fmt: skip


class WarmProcesses:
    """`run` stands in for `subprocess.run`; what no warm process can do goes to the real one."""

    def __init__(self, stock: "_Warm | None" = None) -> None:
        self.cold = subprocess.run
        self._warm: dict[Libraries, _Warm] = {"stock": stock} if stock else {}
        self._may_start = stock is None

    def run(self, command: Any, **options: Any) -> "subprocess.CompletedProcess[Any]":
        libraries = wanted_libraries(command)
        if libraries is None or not options.keys() <= UNDERSTOOD:
            return self.cold(command, **options)
        environment = dict(options.get("env") or os.environ)
        if not self._warm and self._may_start:
            stock = _Warm.start("stock", environment)
            self._warm = {"stock": stock, "unsloth": _Warm.start("unsloth", environment, stock)}
        warm = self._warm.get(libraries)
        if warm is None or not warm.fits(environment):
            return self.cold(command, **options)
        return warm.run(command, environment, options)

    def end(self) -> None:
        # The last one first: it holds the other's requests open.
        for warm in reversed(self._warm.values()):
            warm.end()


def wanted_libraries(command: Any) -> Libraries | None:
    """What the child imports before it does anything else; None where that is not known, or little."""
    if not isinstance(command, list) or command[0] != sys.executable:
        return None
    match [str(part) for part in command[1:]]:
        case ["-m", "gptoss_ft.verification.probe", "trained", *_] | ["-m", "gptoss_ft", "evaluate", *_]:
            return "unsloth"
        case ["-m", "gptoss_ft.verification.probe" | "gptoss_ft.model.portable_check", *_]:
            return "stock"
        case ["-c", code, *_] if 'sys.modules["unsloth"] = sys.modules["unsloth_zoo"] = None\n' in code:
            return "stock"
    return None


class _Warm:
    """A process that has imported `libraries`, and forks."""

    def __init__(self, libraries: Libraries, environment: dict[str, str], requests: IO[str], answers: IO[str]) -> None:
        self._read = READ_AT_IMPORT if libraries == "stock" else (*READ_AT_IMPORT, "UNSLOTH_")
        self._environment = environment
        self._requests, self._answers = requests, answers
        self._process: subprocess.Popen[str] | None = None

    @classmethod
    def start(cls, libraries: Libraries, environment: dict[str, str], stock: "_Warm | None" = None) -> "_Warm":
        shared = [stock._requests.fileno(), stock._answers.fileno()] if stock else []
        process = subprocess.Popen(
            [sys.executable, __file__, libraries, *map(str, shared)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=shared,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        warm = cls(libraries, environment, process.stdin, process.stdout)
        warm._process = process
        return warm

    def fits(self, environment: dict[str, str]) -> bool:
        names = {name for name in environment.keys() | self._environment.keys() if name.startswith(self._read)}
        return all(environment.get(name) == self._environment.get(name) for name in names)

    def run(
        self, command: list[Any], environment: dict[str, str], options: dict[str, Any]
    ) -> "subprocess.CompletedProcess[Any]":
        with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
            files = [Path(name) / "stdout", Path(name) / "stderr"]
            request = {
                "arguments": [str(part) for part in command[1:]], "environment": environment, "folder": os.getcwd(),
                "files": [str(file) for file in files],
            }  # fmt: skip
            code = self._ask(request)
            said = [file.read_bytes() for file in files]
        stdout, stderr = (
            _deliver(words, subprocess.PIPE if options.get("capture_output") else options.get(stream), options, number)
            for words, stream, number in zip(said, ("stdout", "stderr"), (1, 2), strict=True)
        )
        ended = subprocess.CompletedProcess(command, code, stdout, stderr)
        if options.get("check"):
            ended.check_returncode()
        return ended

    def _ask(self, request: dict[str, Any]) -> int:
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        answer = self._answers.readline()
        if not answer:
            raise RuntimeError("the warm process has ended: its words are among those of the tests")
        return int(answer)

    def end(self) -> None:
        if self._process is not None:
            self._process.communicate()


def _deliver(words: bytes, to: Any, options: dict[str, Any], number: int) -> Any:
    """What the child said, returned where it was to be piped, else written to where it goes."""
    if to == subprocess.PIPE:
        return words.decode(errors=options.get("errors") or "strict") if options.get("text") else words
    os.write(number if to is None else to.fileno(), words)
    return None


def serve(libraries: Libraries, answers: IO[str]) -> list[str]:
    """Answer requests with exit codes until there are no more. In each fork it returns what that is to run."""
    before = dict(os.environ)
    if libraries == "stock":
        sys.modules["unsloth"] = sys.modules["unsloth_zoo"] = None  # type: ignore[assignment]  # as in its children
    else:
        from gptoss_ft import runtime

        runtime.prepare_environment()
        runtime.import_unsloth(runtime.find_device("cpu"))
    for module in MODULES:
        importlib.import_module(module)
    # No page of theirs is copied because a fork collects garbage.
    gc.freeze()
    # What the imports set, a child that imports them sets again, or cannot.
    set_by_imports = {name: value for name, value in os.environ.items() if before.get(name) != value}
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request, set_by_imports)
            return list(request["arguments"])
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
    return []


def _become(request: dict[str, Any], set_by_imports: dict[str, str]) -> None:
    """The streams, folder and environment that a process started with `request` would have."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"] | set_by_imports)
    for folder in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if folder and folder not in sys.path:
            sys.path.insert(1, folder)
    for number, file in zip((0, 1, 2), (os.devnull, *request["files"]), strict=True):
        opened = os.open(file, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)


def execute(kind: str, what: str, *arguments: str) -> None:
    """As `python -m WHAT` or `python -c WHAT` with `arguments`."""
    sys.argv = ["-c" if kind == "-c" else what, *arguments]
    sys.path[0] = ""
    if kind == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    # The libraries print; descriptor 1 is for the answers.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        environment = dict(os.environ)
        command = serve(sys.argv[1], answers)  # type: ignore[arg-type]  # one of the two
    if command:
        if descriptors := [int(number) for number in sys.argv[2:]]:
            stock = _Warm("stock", environment, os.fdopen(descriptors[0], "w"), os.fdopen(descriptors[1]))
            subprocess.run = WarmProcesses(stock).run  # type: ignore[assignment]  # as in the tests' process
        execute(*command)
