"""infinity, with every text cut and padded to the length that SigLIP was trained with.

As it comes it pads to the longest text of a batch and cuts at 20 tokens, a default of transformers' configurations that
has nothing to do with the checkpoint: less work than the model asks for, and other vectors.
"""

from __future__ import annotations

from typing import Any

from infinity_emb.cli import cli
from transformers import AutoProcessor

LENGTH = 64

_from_pretrained = AutoProcessor.from_pretrained


def _padding(*arguments: Any, **options: Any) -> Any:
    processor = _from_pretrained(*arguments, **options)

    class Padded(type(processor)):  # type: ignore[misc]
        """Its processor, whatever infinity asks of it."""

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            if options.get("text") is not None:
                options |= {"padding": "max_length", "truncation": True, "max_length": LENGTH}
            return super().__call__(*arguments, **options)

    processor.__class__ = Padded
    return processor


AutoProcessor.from_pretrained = _padding  # type: ignore[method-assign]

if __name__ == "__main__":
    cli()
