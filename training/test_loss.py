"""Checks the chunked loss against the paper's form: `python test_loss.py`."""

import math

import torch
import torch.nn.functional as F

from loss import sigmoid_loss


def direct(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, z: torch.Tensor
) -> torch.Tensor:
    """The loss as it is written, over the whole matrix."""
    logits = images @ texts.T * scale.exp() + bias
    return -(F.logsigmoid(z * logits) * (z != 0)).sum() / len(images)


def gradients(loss: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Value and gradients, to be compared."""
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def test_chunked_is_direct() -> None:
    """Value and every gradient agree, whatever the chunk."""
    generator = torch.Generator().manual_seed(0)
    unit = lambda rows: F.normalize(torch.randn(rows, 24, generator=generator).double(), dim=-1)
    images, texts = unit(37).requires_grad_(), unit(29).requires_grad_()
    scale = torch.tensor([math.log(10.0)]).double().requires_grad_()
    bias = torch.tensor([-4.0]).double().requires_grad_()
    z = torch.randint(-1, 2, (37, 29), generator=generator).double()
    inputs = [images, texts, scale, bias]
    expected = gradients(direct(images, texts, scale, bias, z), inputs)
    for chunk in (1, 8, 36, 37, 100):
        loss = sigmoid_loss(images, texts, scale, bias, lambda a, b: z[a:b], chunk)
        for got, want in zip(gradients(loss, inputs), expected, strict=True):
            torch.testing.assert_close(got, want)


def test_diagonal_form() -> None:
    """One caption a picture: sum of softplus, minus the diagonal's logits."""
    generator = torch.Generator().manual_seed(1)
    images = F.normalize(torch.randn(9, 8, generator=generator).double(), dim=-1)
    texts = F.normalize(torch.randn(9, 8, generator=generator).double(), dim=-1)
    scale, bias = torch.tensor([2.0]).double(), torch.tensor([-3.0]).double()
    logits = images @ texts.T * scale.exp() + bias
    expected = (F.softplus(logits).sum() - logits.diagonal().sum()) / 9
    z = 2 * torch.eye(9).double() - 1
    torch.testing.assert_close(sigmoid_loss(images, texts, scale, bias, lambda a, b: z[a:b], 4), expected)


if __name__ == "__main__":
    test_chunked_is_direct()
    test_diagonal_form()
    print("the chunked loss is the direct one")
