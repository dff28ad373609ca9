"""Licences of base models and data sets, by the hub's identifiers."""

import re
from functools import cache
from typing import Literal

# For where the hub cannot be asked: by the owner and the family in the model's name.
_OWNERS = "(?:openai|unsloth|meta-llama|HuggingFaceTB)"
_FAMILIES = {
    rf"{_OWNERS}/gpt-oss-": "apache-2.0",
    rf"{_OWNERS}/SmolLM2-": "apache-2.0",
    rf"{_OWNERS}/(?:Meta-)?Llama-3\.1-": "llama3.1",
    rf"{_OWNERS}/Llama-3\.2-": "llama3.2",
    rf"{_OWNERS}/Llama-3\.3-": "llama3.3",
}
SECONDS_TO_ANSWER = 5


def licence_of_model(repo_id: str) -> str | None:
    """What the hub says, else what is known of the family; None where neither says."""
    known = (licence for family, licence in _FAMILIES.items() if re.match(family, repo_id, re.IGNORECASE))
    return licence_on_hub(repo_id, "model") or next(known, None)


@cache
def licence_on_hub(repo_id: str, kind: Literal["model", "dataset"]) -> str | None:
    """The licence that a repository's card states; None without a network, and where it states none."""
    import httpx
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        ask = api.model_info if kind == "model" else api.dataset_info
        card = ask(repo_id, timeout=SECONDS_TO_ANSWER).card_data
    except (OSError, ValueError, httpx.HTTPError):
        # Offline, unknown or closed to this token: a card can do without it.
        return None
    licence = card.get("license") if card is not None else None
    # A card may name several.
    return ", ".join(map(str, licence)) if isinstance(licence, list) else licence
