"""One side of a verification, in a process of its own: `python -m gptoss_ft.verification.probe SIDE FOLDER`.

SIDE `trained` loads the model as training does and leaves in FOLDER prompts.json (token ids), logits-N.npy (float32
[positions, vocabulary], of the last positions of prompt N) and trained.json; where it is asked to, it writes the
portable adapter as well. SIDE `exported` loads what was exported where Unsloth cannot be imported, answers the same ids
and leaves exported.json. Both read FOLDER/request.json. An error for a person goes to refused.json.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptoss_ft.config import find_job_file, load_job_config
from gptoss_ft.errors import ExportError, JobError, MachineError, is_disk_full
from gptoss_ft.reporting.console import make_console
from gptoss_ft.reporting.files import write_json
from gptoss_ft.verification.logit_comparison import Difference, compare
from gptoss_ft.verification.merged_rules import config_problems, loading_problems, surroundings_problems
from gptoss_ft.verification.placement import placement

if TYPE_CHECKING:
    import torch

REQUEST, PROMPTS, TRAINED, EXPORTED, REFUSED = (
    f"{name}.json" for name in ("request", "prompts", "trained", "exported", "refused")
)
NAMES = {"merged": "the merged model", "adapter": "the base model of the adapter"}
# Positions at the end of each prompt whose logits are compared: 8 prompts of gpt-oss's make 100 MB.
POSITIONS = 16


def ask_trained(folder: Path, request: dict[str, Any]) -> None:
    """Load the trained model through Unsloth and write prompts, logits and what it is computed in."""
    import numpy as np

    from gptoss_ft.subject import Subject, in_memory
    from gptoss_ft.verification.prompts import make_prompts

    loaded = load_job_config(folder / "job.yaml", ())
    place = Path(request["folder"]) if request["folder"] else None
    own_data = place is not None and find_job_file(place) is not None
    with in_memory(Subject(request["kind"], request["name"], place, loaded), make_console()) as ready:
        # It imports peft, which Unsloth must come before.
        from gptoss_ft.model.portable import write_portable

        prompts = make_prompts(loaded.job, ready.tokenizer, own_data)
        for number, ids in enumerate(prompts):
            np.save(folder / f"logits-{number}.npy", _logits(ready.model, ids).numpy())
        adapter_kl = None
        if request["kind"] == "adapter":
            with ready.model.disable_adapter():
                adapter_kl = _compare(folder, ready.model, prompts).mean_kl
        if request["writes_adapter"]:
            write_portable(ready.model, loaded.job.model, Path(request["exported"]))
            ready.tokenizer.save_pretrained(request["exported"])
        facts = {
            "dtype": str(ready.model.dtype).removeprefix("torch."),
            "in_4bit": any(getattr(weight, "quant_state", None) is not None for weight in ready.model.parameters()),
            "device": ready.device.kind,
            "adapter_kl": adapter_kl,
            "has_chat_template": bool(ready.tokenizer.chat_template),
        }
    write_json(folder / PROMPTS, prompts)
    write_json(folder / TRAINED, facts)


def _logits(model: Any, ids: list[int]) -> "torch.Tensor":
    """float32 logits [positions, vocabulary] of the last positions of one prompt, on the CPU."""
    import torch

    model.eval()
    input_ids = torch.tensor([ids], device=_device_of(model))
    with torch.no_grad():
        logits = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False).logits
    last: torch.Tensor = logits[0, -POSITIONS:].float().cpu()
    return last


def _device_of(model: Any) -> str:
    """Where a model takes its inputs. Accelerate says `meta` of weights on the disk, and moves inputs itself."""
    name = str(model.device)
    return "cpu" if name == "meta" else name


def ask_exported(folder: Path, request: dict[str, Any]) -> None:
    """Load what was exported with stock transformers and PEFT, and compare its logits with the trained model's."""
    for name in ("unsloth", "unsloth_zoo"):
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
    exported = Path(request["exported"])
    trained = json.loads((folder / TRAINED).read_text(encoding="utf-8"))
    if request["as"] == "merged" and (problems := config_problems(exported)):
        raise ExportError(f"{NAMES[request['as']]}: {'; '.join(problems)}")
    model, problems = _load_exported(folder, request, trained)
    if request["as"] == "merged":
        problems += surroundings_problems(exported, trained["has_chat_template"])
    if problems:
        raise ExportError(f"{NAMES[request['as']]}: {'; '.join(problems)}")
    difference = _compare(folder, model, json.loads((folder / PROMPTS).read_text(encoding="utf-8")))
    there = [name for name in sys.modules if name.partition(".")[0] in ("unsloth", "unsloth_zoo")]
    assert all(sys.modules[name] is None for name in there), f"Unsloth took part: {there}"
    facts = {"dtype": str(model.dtype).removeprefix("torch."), "device": _device_of(model)}
    write_json(folder / EXPORTED, facts | asdict(difference))


def _load_exported(folder: Path, request: dict[str, Any], trained: dict[str, Any]) -> tuple[Any, list[str]]:
    """The exported model, and what its loading reported. A merged model is loaded in its own dtype, an adapter's base
    in the one that the adapter was trained with. `ExportError` where stock libraries do not load it, `MachineError`
    where it does not fit."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    is_adapter = request["as"] == "adapter"
    whole = Path(request["base"] if is_adapter else request["exported"])
    try:
        config = AutoConfig.from_pretrained(whole, trust_remote_code=False)
        dtype = getattr(torch, trained["dtype"]) if is_adapter else config.dtype or torch.float32
        options = placement(_elements(whole) * dtype.itemsize, trained["device"], folder / "offload")
        if config.model_type == "gpt_oss":
            options["attn_implementation"] = "eager"  # the others leave its sinks out
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            whole, dtype=dtype, trust_remote_code=False, output_loading_info=True, **options
        )
        model, report = loaded
        if is_adapter:
            model = PeftModel.from_pretrained(model, request["exported"])
    except Exception as error:  # whatever a library makes of a file that is wrong
        if short := too_small(error):
            raise short from error
        words = " ".join(str(error).split())
        raise ExportError(f"stock transformers does not load it: {type(error).__name__}: {words}") from error
    return model, loading_problems(report)


def _elements(whole: Path) -> int:
    from safetensors import safe_open

    count = 0
    for file in sorted(whole.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                count += size
    return count


def _compare(folder: Path, model: Any, prompts: list[list[int]]) -> Difference:
    """The trained model's logits, as they lie in `folder`, against those of `model`."""
    import numpy as np
    import torch

    pairs = (
        (torch.from_numpy(np.load(folder / f"logits-{at}.npy")), _logits(model, ids)) for at, ids in enumerate(prompts)
    )
    return compare(pairs)


def too_small(error: Exception) -> MachineError | None:
    """What a library's exception means where memory or disk were too little for the model; None for any other."""
    import torch

    words = " ".join(str(error).split())
    if is_disk_full(error):
        cure = "Make space where temporary files go (TMPDIR)"
    # Its allocator for the CPU says so in words alone.
    elif isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in words:
        cure = "Close other programs, or use a machine with more memory"
    else:
        return None
    found = f"{type(error).__name__}: {words}"
    return MachineError(f"there is too little room to verify the model: {found}", f"{cure}; then repeat the command.")


def main(side: str, folder: Path) -> int:
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    try:
        (ask_trained if side == "trained" else ask_exported)(folder, request)
    except JobError as error:
        return _refuse(folder, error)
    except Exception as error:
        if short := too_small(error):
            return _refuse(folder, short)
        raise
    return 0


def _refuse(folder: Path, error: JobError) -> int:
    words = {"message": error.message, "cure": error.cure, "key": error.key}
    write_json(folder / REFUSED, {"kind": type(error).__name__, **words})
    return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
