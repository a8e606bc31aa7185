"""Writes the checkpoints in open_clip's files, and what open_clip and timm make of them.

    pip install -r tests/golden/requirements.txt
    python tests/golden/generate_open_clip.py

Everything is seeded: a second run writes the same values.
"""

import json
import shutil
from unittest import mock

import open_clip
import timm.models.vision_transformer as timm_vit
import torch
from open_clip.loss import SigLipLoss
from safetensors.torch import save_file

from generate import HERE, TEXTS, pictures, randomise, save, tokenizer

LENGTH = 12
# Beside the texts of the other variants, what open_clip's cleaning changes.
MORE = ["A_cat, a dog!", "two &amp; a car", "a\u2019s \u201ccat\u201d", "\uff23\uff21\uff34 \ufb01", "  a\t\n cat  "]


def variants():
    """name -> timm model, its width and MLP, the text tower's settings, options."""
    common = dict(context_length=LENGTH, layers=2, heads=2, no_causal_mask=True, pool_type="last")
    eps = dict(norm_kwargs=dict(eps=1e-6))
    # The first SigLIP and its fine-tunes: exact GELU in both towers, files as a wrapper class saves them.
    yield "open-clip-erf", "vit_base_patch16_siglip_224", dict(embed_dim=24, mlp_ratio=1.5), common | eps | dict(
        width=24, proj_bias=True, mlp_ratio=2.0, tokenizer_kwargs=dict(clean="canonicalize")
    ), dict(prefix="model.", file="model.safetensors", auto_map=True)
    # The second SigLIP: the approximation, and a projection from another width, without a bias.
    yield "open-clip-tanh", "vit_so400m_patch16_siglip_256", dict(embed_dim=32, mlp_ratio=1.2), common | eps | dict(
        width=20, proj_bias=False, mlp_ratio=1.3, act_kwargs=dict(approximate="tanh"), tokenizer_kwargs=dict(clean="lower")
    ), dict(file="open_clip_model.safetensors", mean=[0.48, 0.45, 0.4], std=[0.27, 0.26, 0.28], interpolation="bilinear", dtype=torch.float16)
    # No projection, torch's own epsilon, and the text tower's parameters at the root.
    yield "open-clip-bare", "vit_large_patch16_siglip_256", dict(embed_dim=16, mlp_ratio=2.0), common | dict(
        width=16, proj_type="none", mlp_ratio=1.0
    ), dict(prefix="module.", file="open_clip_model.safetensors", flat_text=True)


@torch.no_grad()
def stages(prefix, blocks, norm, run):
    """What goes into the first block and comes out of each, and the norm behind them."""
    states, hooks = {}, []

    def note(name, value):
        states[f"{prefix}.{name}"] = value.clone()

    hooks.append(blocks[0].register_forward_pre_hook(lambda _, args: note("hidden_state.0", args[0])))
    for index, block in enumerate(blocks, 1):
        hooks.append(block.register_forward_hook(lambda _, args, out, index=index: note(f"hidden_state.{index}", out)))
    hooks.append(norm.register_forward_hook(lambda _, args, out: note("last_hidden_state", out)))
    note("pooled", run())
    for hook in hooks:
        hook.remove()
    return states


@torch.no_grad()
def checkpoint(name, timm_name, timm_shape, text_cfg, options):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    text_cfg["vocab_size"] = tokenizer(folder, LENGTH)
    text_cfg["hf_tokenizer_name"] = "somewhere/else"
    vision_cfg = dict(image_size=16, timm_model_name=timm_name, timm_model_pretrained=False, timm_pool="map", timm_proj="none")
    model_cfg = dict(embed_dim=timm_shape["embed_dim"], init_logit_bias=-10, custom_text=True, vision_cfg=vision_cfg, text_cfg=text_cfg)

    # timm's own entry point, with the heads and the activation of the real model, of a smaller body.
    original = timm_vit._create_vision_transformer

    def small(variant, pretrained=False, **arguments):
        arguments |= timm_shape | dict(depth=2, patch_size=8, img_size=16)
        return original(variant, pretrained=pretrained, **arguments)

    with mock.patch.object(timm_vit, "_create_vision_transformer", small):
        model = open_clip.CustomTextCLIP(**{key: value for key, value in model_cfg.items() if key != "custom_text"})
    model.eval()
    randomise(model, seed=sum(map(ord, name)))
    dtype = options.get("dtype", torch.float32)
    stored = {key: value.to(dtype).clone() for key, value in model.state_dict().items() if not key.endswith("attn_mask")}
    model.load_state_dict({key: value.float() for key, value in stored.items()}, strict=False)
    if options.get("flat_text"):
        stored = {key.removeprefix("text."): value for key, value in stored.items()}
    prefix = options.get("prefix", "")
    save_file({prefix + key: value for key, value in stored.items()}, folder / options["file"], metadata={"format": "pt"})

    preprocess = dict(
        mean=options.get("mean", [0.5] * 3), std=options.get("std", [0.5] * 3), mode="RGB", size=[16, 16],
        interpolation=options.get("interpolation", "bicubic"), resize_mode="squash",
    )
    config = dict(model_cfg=model_cfg, preprocess_cfg=preprocess)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    if options.get("auto_map"):
        config = dict(model_type="siglip", auto_map=dict(AutoModel="marqo.Model"), open_clip_model_name="hf-hub:some/where")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    texts = TEXTS + MORE
    tok = open_clip.tokenizer.HFTokenizer(str(folder), context_length=LENGTH, **text_cfg.get("tokenizer_kwargs", {}))
    ids = tok(texts)
    pixels = pictures(16, len(texts))
    mean, std = torch.tensor(preprocess["mean"]).double(), torch.tensor(preprocess["std"]).double()
    values = ((torch.from_numpy(pixels).double() / 255 - mean) / std).permute(0, 3, 1, 2).float().contiguous()
    trunk, text = model.visual.trunk, model.text
    expected = {"pixels": torch.from_numpy(pixels), "ids": ids}
    expected |= stages("vision", trunk.blocks, trunk.norm, lambda: model.encode_image(values))
    expected |= stages("text", text.transformer.resblocks, text.ln_final, lambda: model.encode_text(ids))
    images, captions, scale = model.encode_image(values, normalize=True), model.encode_text(ids, normalize=True), model.logit_scale.exp()
    logits = scale * images @ captions.T + model.logit_bias
    loss = SigLipLoss()(images, captions, scale, model.logit_bias)
    expected |= {"logits": logits, "probabilities": torch.sigmoid(logits), "loss": loss.reshape(1)}
    save(folder, expected, texts)


def main():
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    # The fused kernels take other roads through the same arithmetic; these are eager.
    with mock.patch("timm.layers.attention_pool.use_fused_attn", lambda *_: False):
        for variant in variants():
            checkpoint(*variant)


if __name__ == "__main__":
    main()
