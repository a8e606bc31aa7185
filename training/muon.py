"""Muon in f32, all matrices of one shape at a time.

`torch.optim.Muon` orthogonalises in bf16, whatever its parameters are: on a CPU
without bf16 instructions a step of it costs twenty times the model's own.
"""

import math
from collections.abc import Sequence

import torch

MOMENTUM = 0.95
# Keller Jordan's quintic: five rounds bring every singular value near 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Replaces the singular values of `[n, rows, columns]` by about 1."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Nesterov momentum, orthogonalised, with decoupled weight decay."""

    def __init__(
        self, groups: Sequence[tuple[float, list[torch.Tensor]]], weight_decay: float
    ) -> None:
        self.weight_decay = weight_decay
        self.groups: list[tuple[float, list[torch.Tensor]]] = []
        for rate, members in groups:
            for shape in dict.fromkeys(m.shape for m in members):
                self.groups.append((rate, [m for m in members if m.shape == shape]))
        self.momenta = [torch.zeros(len(m), *m[0].shape) for _, m in self.groups]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Applies the members' gradients."""
        for (rate, members), momentum in zip(self.groups, self.momenta, strict=True):
            gradient = torch.stack([m.grad for m in members])
            momentum.lerp_(gradient, 1 - MOMENTUM)
            update = orthogonalise(gradient.lerp(momentum, MOMENTUM))
            rows, columns = update.shape[1:]
            step = learning_rate * rate
            for member, change in zip(members, update, strict=True):
                member.mul_(1 - step * self.weight_decay)
                member.add_(change, alpha=-step * math.sqrt(max(1.0, rows / columns)))

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        """Returns what `load_state_dict` needs."""
        return {"momenta": self.momenta}

    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        """Continues from a stored state."""
        for target, value in zip(self.momenta, state["momenta"], strict=True):
            target.copy_(value)
