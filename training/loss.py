"""SigLIP's pairwise sigmoid loss, a chunk of pictures at a time.

    L = -1/n sum_ij log sigmoid(z_ij (exp(s) x_i . y_j + b))

z is +1 where caption j holds for picture i, -1 where it does not, and 0 where
the pair is left out. The similarity matrix is never held: a chunk's part of it
is computed again in the backward pass.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def chunk_loss(
    images: torch.Tensor,
    texts: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    targets: torch.Tensor,
) -> torch.Tensor:
    """Sums the loss of some pictures `[c, d]` against all texts `[m, d]`."""
    logits = images @ texts.T * logit_scale.exp() + logit_bias
    return (F.softplus(-targets * logits) * targets.abs()).sum()


def sigmoid_loss(
    images: torch.Tensor,
    texts: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    targets: Callable[[int, int], torch.Tensor],
    chunk: int = 64,
) -> torch.Tensor:
    """Returns the loss a picture.

    * `images` `[n, d]`, `texts` `[m, d]`: unit vectors
    * `targets(start, stop)`: z of those pictures, `[stop - start, m]`
    """
    total = images.new_zeros(())
    for start in range(0, len(images), chunk):
        stop = min(start + chunk, len(images))
        total = total + checkpoint(
            chunk_loss,
            images[start:stop],
            texts,
            logit_scale,
            logit_bias,
            targets(start, stop),
            use_reentrant=False,
        )
    return total / len(images)
