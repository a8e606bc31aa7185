"""The demo's architecture, and mixed-precision training of it on a CPU.

The model is transformers' own `SiglipModel`. Where the CPU has AVX-512 BF16 its
weights are trained in bf16 (matrix products run two to three times faster than
in f32, and without autocast's casts), while the optimizer keeps f32 masters;
elsewhere bf16 is emulated, many times slower than f32, and f32 is used.
"""

import argparse
import math
from collections.abc import Iterable

import torch
from torch import nn
from transformers import SiglipConfig, SiglipModel

from muon import Muon

TEXT_LENGTH = 16
VOCAB_SIZE = 4096
PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
IMAGE_SIZE, PATCH = 64, 8
WIDTH, MLP, HEADS = 192, 768, 3
VISION_LAYERS, TEXT_LAYERS = 6, 4
# Muon's steps are normalised: its rate is this many times AdamW's.
MUON_RATE = 30.0
# Scale and bias are single numbers far from where they end, and a token's
# embedding is long (std 1) and seldom moved.
ADAMW_RATES = {"logit_scale": 5.0, "logit_bias": 5.0, "token_embedding": 10.0}


def add_dtype_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--dtype`, in which the towers compute."""
    native = torch.cpu._is_avx512_bf16_supported()
    parser.add_argument(
        "--dtype",
        type=lambda name: {"f32": torch.float32, "bf16": torch.bfloat16}[name],
        default=torch.bfloat16 if native else torch.float32,
        help="f32 or bf16; by default bf16 where the CPU has instructions for it",
    )


def build_config() -> SiglipConfig:
    """Returns the configuration that is exported as config.json."""
    shared = {"hidden_size": WIDTH, "intermediate_size": MLP, "num_attention_heads": HEADS}
    config = SiglipConfig(
        text_config={
            **shared,
            "num_hidden_layers": TEXT_LAYERS,
            "vocab_size": VOCAB_SIZE,
            "max_position_embeddings": TEXT_LENGTH,
            "projection_size": WIDTH,
            "pad_token_id": PAD_ID,
            "bos_token_id": EOS_ID,
            "eos_token_id": EOS_ID,
        },
        vision_config={
            **shared,
            "num_hidden_layers": VISION_LAYERS,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH,
        },
    )
    # On 16 to 64 tokens the plain products beat the fused CPU kernel.
    config._attn_implementation = "eager"
    return config


def sincos_positions() -> torch.Tensor:
    """Returns 2-D sine and cosine positions `[patches, WIDTH]`."""
    side = IMAGE_SIZE // PATCH
    frequencies = torch.exp(torch.linspace(math.log(0.2), math.log(2.5), WIDTH // 4))
    angles = torch.arange(side).float()[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], -1)
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None].expand(side, side, -1)
    return torch.cat([rows, columns], -1).reshape(side * side, WIDTH)


def prepare_vision(tower: nn.Module) -> None:
    """Starts the vision tower near local attention, by place and content.

    From a plain start it stays at chance for hundreds of steps: positions are
    too faint beside the patches to be told apart. Strong sine positions, and
    equal query and key maps, which make a patch look at its like, end that.
    """
    tower.embeddings.position_embedding.weight.copy_(0.7 * sincos_positions())
    head_width = WIDTH // HEADS
    for layer in tower.encoder.layers:
        blocks = [torch.linalg.qr(torch.randn(WIDTH, head_width))[0].T for _ in range(HEADS)]
        shared = 0.85 * torch.cat(blocks)
        layer.self_attn.q_proj.weight.copy_(shared)
        layer.self_attn.k_proj.weight.copy_(shared)


def whiten_patches(tower: nn.Module, pixel_values: torch.Tensor) -> None:
    """Sets the patch embedding so that its outputs are spread evenly.

    Raw patches are mostly flat colour: most of their variance lies in one
    direction, which hides the shapes. A random rotation of the whitened patch
    keeps all of it, since a patch has as many numbers as the tower is wide.
    """
    patches = nn.functional.unfold(pixel_values, PATCH, stride=PATCH).transpose(1, 2)
    patches = patches.reshape(-1, patches.shape[-1])
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]
    # The added share of the mean variance keeps noise from being blown up.
    weight = rotation @ (vectors / (values + 0.05 * values.mean()).sqrt()).T
    with torch.no_grad():
        embedding = tower.embeddings.patch_embedding
        embedding.weight.copy_(weight.reshape(embedding.weight.shape))
        embedding.bias.copy_(-weight @ mean)


def build_model(seed: int) -> SiglipModel:
    """Returns an untrained model, initialised so that the text tower learns.

    The text embedding is read at the last, padded position. Token embeddings of
    std 1 beside positions of std 0.02 and a zero pad row let it see the words
    from the first step; with HF's initialisation it stays collapsed.
    """
    torch.manual_seed(seed)
    model = SiglipModel(build_config())
    embeddings = model.text_model.embeddings
    with torch.no_grad():
        embeddings.token_embedding.weight.normal_(0, 1.0)
        embeddings.token_embedding.weight[PAD_ID].zero_()
        embeddings.position_embedding.weight.normal_(0, 0.02)
        prepare_vision(model.vision_model)
        model.logit_scale.fill_(math.log(10.0))
        model.logit_bias.fill_(-math.log(128.0))
    return model


def embed_images(
    model: SiglipModel, pixel_values: torch.Tensor, kept: torch.Tensor | None = None
) -> torch.Tensor:
    """Runs the vision tower, on the patches `kept` `[batch, n]` only if given.

    * returns `[batch, WIDTH]`, unnormalised
    """
    tower = model.vision_model
    tokens = tower.embeddings(pixel_values.to(tower.embeddings.patch_embedding.weight.dtype))
    if kept is not None:
        tokens = torch.gather(tokens, 1, kept[:, :, None].expand(-1, -1, tokens.shape[2]))
    tokens = tower.encoder(inputs_embeds=tokens).last_hidden_state
    return tower.head(tower.post_layernorm(tokens))


def embed_texts(model: SiglipModel, input_ids: torch.Tensor) -> torch.Tensor:
    """Runs the text tower on padded ids `[batch, TEXT_LENGTH]`.

    Only the last position is read, so the last layer computes no other: a fifth
    of the tower's time. `test_model.py` compares with transformers' own forward.
    """
    tower = model.text_model
    states = tower.embeddings(input_ids)
    for layer in tower.encoder.layers[:-1]:
        states = layer(states, attention_mask=None)
    layer = tower.encoder.layers[-1]
    normed = layer.layer_norm1(states)
    attention = layer.self_attn
    queries, keys, values = (
        part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for part in (
            attention.q_proj(normed[:, -1:]),
            attention.k_proj(normed),
            attention.v_proj(normed),
        )
    )
    weights = (queries @ keys.mT * queries.shape[-1] ** -0.5).softmax(-1)
    last = states[:, -1] + attention.out_proj((weights @ values).flatten(1))
    last = last + layer.mlp(layer.layer_norm2(last))
    return tower.head(tower.final_layer_norm(last))


class MixedOptimizer:
    """Muon and AdamW on f32 masters of the weights, with an average of them.

    Muon takes the matrices inside the encoder layers, where it needs a third of
    AdamW's steps for the same loss; AdamW takes everything else.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        weight_decay: float,
        ema: float,
        vision_rate: float = 1.0,
    ) -> None:
        self.named = list(named)
        self.masters = [p.detach().float().clone() for _, p in self.named]
        self.average = [m.clone() for m in self.masters]
        self.ema = ema
        self.updates = 0
        for master in self.masters:
            master.grad = torch.zeros_like(master)
        matrices: dict[float, list[torch.Tensor]] = {}
        groups: dict[tuple[bool, float], list[torch.Tensor]] = {}
        for (name, parameter), master in zip(self.named, self.masters, strict=True):
            tower_rate = vision_rate if name.startswith("vision_model.") else 1.0
            if ".encoder.layers." in name and parameter.ndim == 2:
                matrices.setdefault(tower_rate, []).append(master)
                continue
            decayed = parameter.ndim >= 2 and "embedding" not in name
            rate = next((r for part, r in ADAMW_RATES.items() if part in name), 1.0)
            rate *= tower_rate
            groups.setdefault((decayed, rate), []).append(master)
        self.muon = Muon(
            [(MUON_RATE * rate, members) for rate, members in matrices.items()], weight_decay=0.01
        )
        self.adamw = torch.optim.AdamW(
            [
                {
                    "params": members,
                    "weight_decay": weight_decay if decayed else 0.0,
                    "rate": rate,
                }
                for (decayed, rate), members in groups.items()
            ],
            betas=(0.9, 0.98),
            fused=True,
        )

    def step(self, learning_rate: float) -> float:
        """Applies the gradients and returns their norm before clipping at 1."""
        for (_, parameter), master in zip(self.named, self.masters, strict=True):
            if parameter.grad is None:
                master.grad.zero_()
            else:
                master.grad.copy_(parameter.grad)
            parameter.grad = None
        norm = nn.utils.clip_grad_norm_(self.masters, 1.0)
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate * group["rate"]
        self.adamw.step()
        self.muon.step(learning_rate)
        self.updates += 1
        # The first steps are forgotten fast, whatever the final horizon.
        decay = min(self.ema, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, self.masters, 1 - decay)
        self.write(self.masters)
        return float(norm)

    def write(self, values: list[torch.Tensor]) -> None:
        """Copies f32 values into the model."""
        with torch.no_grad():
            torch._foreach_copy_([p for _, p in self.named], values)

    def state(self) -> dict:
        """Returns everything that `load` needs."""
        return {
            "masters": self.masters,
            "average": self.average_by_name(),
            "updates": self.updates,
            "adamw": self.adamw.state_dict(),
            "muon": self.muon.state_dict(),
        }

    def load(self, state: dict) -> None:
        """Continues from a stored state."""
        for target, value in zip(self.masters, state["masters"], strict=True):
            target.detach().copy_(value)
        for target, value in zip(self.average, state["average"].values(), strict=True):
            target.copy_(value)
        self.updates = state["updates"]
        self.adamw.load_state_dict(state["adamw"])
        self.muon.load_state_dict(state["muon"])
        self.write(self.masters)

    def average_by_name(self) -> dict[str, torch.Tensor]:
        """Returns the averaged weights under the model's names."""
        return {name: value for (name, _), value in zip(self.named, self.average, strict=True)}
