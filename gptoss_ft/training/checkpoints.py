"""Writing checkpoints while training goes on: state is copied to the host, and a thread writes it.

Files of a checkpoint: adapter_model.safetensors and adapter_config.json as PEFT reads them; the tokenizer;
optimizer.pt, scheduler.pt, rng_state.pth and, with float16, scaler.pt, torch files that load with `weights_only`;
trainer_state.json; and checkpoint.json, which names them all.
"""

import shutil
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from gptoss_ft.errors import DiskError
from gptoss_ft.reporting.checkpoint_folder import CHECKPOINT, keep_newest, partial_of, publish, seal
from gptoss_ft.runtime import GIB

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
RANDOM_STATE = "rng_state.pth"
CURE = (
    "Make space (each checkpoint takes as much, and training.save_total_limit says how many are kept); the checkpoints "
    "so far are whole."
)
# What writing one is expected to take until one was written: at least so long, and by its size on a slow disk.
FIRST_SECONDS = 3.0
SLOW_BYTES_PER_SECOND = 100e6
# What a checkpoint holds beside its tensors: the tokenizer, and files of settings.
BESIDE_BYTES = 64 << 20


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint is written from, all of it on the host and no longer changed by training.

    `tensors` are the torch files by name, `texts` the text files; `tokenizer` and `adapter_config` are not trained, and
    are saved as they are. `best` is the checkpoint with the lowest held-out loss so far.
    """

    step: int
    adapter: dict[str, torch.Tensor]
    adapter_config: Any
    tensors: dict[str, Any]
    texts: dict[str, str]
    tokenizer: Any
    best: Path | None

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in _tensors_in([self.adapter, self.tensors]))


class HostCopy:
    """Copies of nested state in host memory. Those of a GPU's tensors are pinned, which is several times faster, and
    used again by the next copy: not before what was made of the last is written."""

    def __init__(self) -> None:
        self._pinned: dict[tuple[object, ...], torch.Tensor] = {}

    def of(self, state: Any) -> Any:
        """`state` with every tensor a copy, dicts, lists and tuples new, and all else as it is."""
        copied = self._of(state, ())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied

    def _of(self, state: Any, place: tuple[object, ...]) -> Any:
        if isinstance(state, torch.Tensor):
            return self._tensor(state.detach(), place)
        if isinstance(state, dict):
            return {key: self._of(value, (*place, key)) for key, value in state.items()}
        if isinstance(state, (list, tuple)):
            return type(state)(self._of(value, (*place, index)) for index, value in enumerate(state))
        return state

    def _tensor(self, tensor: torch.Tensor, place: tuple[object, ...]) -> torch.Tensor:
        if tensor.device.type != "cuda":
            return tensor.clone(memory_format=torch.contiguous_format)
        kept = self._pinned.get(place)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            try:
                kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            except RuntimeError:
                # The system lets no more memory be pinned.
                kept = torch.empty(tensor.shape, dtype=tensor.dtype)
            self._pinned[place] = kept
        return kept.copy_(tensor, non_blocking=True)


class CheckpointWriter:
    """Writes checkpoints into `folder`, one at a time, beside training; `limit` of them stay (None: all).

    An error of the thread is raised by the next `check` or `wait`: before the next optimizer step, the next write and
    the end of training.
    """

    def __init__(self, folder: Path, limit: int | None) -> None:
        self._folder = folder
        self._limit = limit
        self._error: BaseException | None = None
        self._seconds = FIRST_SECONDS
        # Not the thread itself: a join that a signal breaks off takes the thread for ended (Python 3.11).
        self._idle = threading.Event()
        self._idle.set()

    def has(self, step: int) -> bool:
        """Whether the checkpoint of this step is there already, whole."""
        return (self._folder / f"{CHECKPOINT}{step}").exists()

    def expect(self, size: int) -> None:
        """The first one will take about `size` bytes."""
        self._seconds = max(FIRST_SECONDS, size / SLOW_BYTES_PER_SECOND)

    @property
    def expected_seconds(self) -> float:
        """What another checkpoint takes until it is whole, after the one that is being written, as long as the last."""
        return self._seconds if self._idle.is_set() else 2 * self._seconds

    def write(self, snapshot: Snapshot) -> None:
        """Begin to write. `DiskError` where there is no room for it."""
        free = shutil.disk_usage(self._folder).free
        needed = snapshot.bytes + BESIDE_BYTES
        if free < needed:
            raise DiskError(
                f"{self._folder} has {free / GIB:.2f} GiB free; {CHECKPOINT}{snapshot.step} needs {needed / GIB:.2f}",
                CURE,
            )
        # A process that is told twice to end does not wait for it: what it leaves has a hidden name.
        self._idle.clear()
        try:
            threading.Thread(target=self._write, args=(snapshot,), name="checkpoint", daemon=True).start()
        except RuntimeError:
            self._idle.set()
            raise

    def wait(self) -> None:
        """Until nothing is being written. `DiskError` where the disk was full, or another error of the write."""
        self._idle.wait()
        self.check()

    def check(self) -> None:
        """The same without waiting: what has failed so far."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def finish(self) -> None:
        """Until nothing is being written, whatever came of it."""
        self._idle.wait()

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self._write_whole(snapshot)
        finally:
            self._idle.set()

    def _write_whole(self, snapshot: Snapshot) -> None:
        began = time.monotonic()
        partial = partial_of(self._folder, snapshot.step)
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _write_files(snapshot, partial)
            seal(partial, snapshot.step)
            publish(partial, self._folder / f"{CHECKPOINT}{snapshot.step}")
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            self._error = _explained(error, self._folder / f"{CHECKPOINT}{snapshot.step}")
            return
        self._seconds = time.monotonic() - began
        # One too many takes room, and is tried again after the next.
        with suppress(OSError):
            keep_newest(self._folder, self._limit, snapshot.best)


def _write_files(snapshot: Snapshot, partial: Path) -> None:
    snapshot.adapter_config.save_pretrained(str(partial))
    snapshot.tokenizer.save_pretrained(str(partial))
    save_file(snapshot.adapter, partial / ADAPTER, metadata={"format": "pt"})
    for name, state in snapshot.tensors.items():
        _save(state, partial / name)
    for name, text in snapshot.texts.items():
        (partial / name).write_text(text, encoding="utf-8")


def _save(state: Any, path: Path) -> None:
    """`torch.save`, but that a disk's error is an `OSError`: torch turns it into a `RuntimeError` of its own buffer."""
    failed: list[OSError] = []
    with path.open("wb", buffering=0) as stream:

        def write(content: memoryview) -> int:
            rest = memoryview(content)
            try:
                while rest:
                    rest = rest[stream.write(rest) :]
            except OSError as error:
                failed.append(error)
                raise
            return len(content)

        try:
            torch.save(state, SimpleNamespace(write=write, flush=stream.flush))
        except RuntimeError:
            if failed:
                raise failed[0] from None
            raise


def _explained(error: Exception, checkpoint: Path) -> Exception:
    """A disk's error as a person's; safetensors has a kind of its own for one."""
    if not isinstance(error, (OSError, SafetensorError)):
        return error
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
    return DiskError(f"{checkpoint} could not be written: {words}", CURE)


def _tensors_in(state: Any) -> Iterable[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, (dict, list, tuple)):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _tensors_in(value)
