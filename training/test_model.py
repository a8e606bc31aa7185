"""Checks the shortened text forward and the f32 Muon: `python test_model.py`."""

import torch

from model import TEXT_LENGTH, VOCAB_SIZE, build_model, embed_texts
from muon import Muon


def test_embed_texts() -> None:
    """The text tower's output equals transformers'."""
    model = build_model(seed=2)
    ids = torch.randint(0, VOCAB_SIZE, (8, TEXT_LENGTH))
    with torch.no_grad():
        expected = model.text_model(input_ids=ids).pooler_output
        torch.testing.assert_close(embed_texts(model, ids), expected, rtol=1e-4, atol=1e-4)


def test_muon() -> None:
    """Three steps agree with torch.optim.Muon's, but for its bf16."""
    torch.manual_seed(3)
    own = [torch.randn(shape) for shape in ((48, 48), (96, 48), (48, 96), (48, 48))]
    theirs = [matrix.clone() for matrix in own]
    reference = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.01)
    muon = Muon([(1.0, own)], weight_decay=0.01)
    for _ in range(3):
        for ours, other in zip(own, theirs, strict=True):
            ours.grad = torch.randn_like(ours)
            other.grad = ours.grad.clone()
        muon.step(0.02)
        reference.step()
    for ours, other in zip(own, theirs, strict=True):
        assert (ours - other).norm() < 1e-3 * other.norm()


if __name__ == "__main__":
    test_embed_texts()
    test_muon()
    print("the text forward and Muon agree with their references")
