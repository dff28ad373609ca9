"""How far the answers of two models lie apart, over the same positions of the same prompts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Where the two likeliest tokens are nearer to each other, rounding alone can swap them.
DECIDED_NATS = 1.0


@dataclass(frozen=True)
class Difference:
    """Differences of next-token logits: the largest in any of them; KL(trained ‖ other) in nats, its mean and its
    maximum over `positions`; the share of positions at which both find the same token likeliest, and the same share
    (None: there is none) of the `decided` ones, where the first model's likeliest token leads by a nat."""

    max_abs_logit_difference: float
    mean_kl: float
    max_kl: float
    top1_agreement: float
    positions: int
    decided_agreement: float | None
    decided: int


def compare(pairs: "Iterable[tuple[torch.Tensor, torch.Tensor]]") -> Difference:
    """Compare `pairs` of logits, the trained model's first, each float32 [positions, vocabulary]; one pair a prompt.

    A value that is not finite makes the difference not finite, so that no tolerance holds.
    """
    import torch

    largest, divergences, agreed, leads = [], [], [], []
    for trained, exported in pairs:
        largest.append((trained - exported).abs().max())
        expected = torch.log_softmax(trained.double(), dim=-1)
        found = torch.log_softmax(exported.double(), dim=-1)
        divergences.append((expected.exp() * (expected - found)).sum(dim=-1))
        agreed.append(trained.argmax(dim=-1) == exported.argmax(dim=-1))
        first, second = trained.topk(2, dim=-1).values.unbind(dim=-1)
        leads.append(first - second >= DECIDED_NATS)
    kl, agreement, decided = torch.cat(divergences), torch.cat(agreed), torch.cat(leads)
    return Difference(
        max_abs_logit_difference=float(torch.stack(largest).max()),
        mean_kl=float(kl.mean()),
        max_kl=float(kl.max()),
        top1_agreement=float(agreement.double().mean()),
        positions=len(kl),
        decided_agreement=float(agreement[decided].double().mean()) if decided.any() else None,
        decided=int(decided.sum()),
    )
