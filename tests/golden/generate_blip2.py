"""Writes small random BLIP-2 checkpoints, and what transformers makes of them.

    pip install -r tests/golden/requirements.txt
    python tests/golden/generate_blip2.py

Everything is seeded: a second run writes the same values.
"""

import json
import shutil

import torch
from safetensors.torch import save_file
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval

from generate import HERE, encoder, pictures, randomise, save
from generate_blip import LENGTH, MEAN, PIECES, STD, TEXTS, tokenizer_files

OPT = dict(model_type="opt", hidden_size=16, ffn_dim=20, num_hidden_layers=1, num_attention_heads=2, vocab_size=32, word_embed_proj_dim=16,
           max_position_embeddings=16)
T5 = dict(model_type="t5", d_model=24, d_kv=4, d_ff=20, num_layers=1, num_decoder_layers=1, num_heads=2, vocab_size=32)


def model_of(cls, vision, qformer, options):
    config = Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=options.get("text", OPT),
        num_query_tokens=options.get("queries", 5),
        image_text_hidden_size=options.get("dim", 16),
        image_token_index=options.get("image_token"),
    )
    for part in (config, config.vision_config, config.qformer_config, config.text_config):
        part._attn_implementation = "eager"
    model = cls(config).eval()
    before = {key: value.clone() for key, value in model.named_parameters()}
    randomise(model, seed=options.get("seed", 1))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(len(key))
            if key.endswith(("class_embedding", "position_embedding", "query_tokens")):
                parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
            if key.endswith(("LayerNorm.weight", "layernorm.weight")):
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
            assert not torch.equal(parameter, before[key]), key
    return model


def checkpoint(name, cls, vision, qformer, options):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    retrieval = cls is Blip2ForImageTextRetrieval
    if retrieval:
        qformer = qformer | dict(vocab_size=len(PIECES) + 1, max_position_embeddings=LENGTH, use_qformer_text_input=True)
    model = model_of(cls, vision, qformer, options | {"seed": sum(map(ord, name))})
    dtype = options.get("dtype", torch.float32)
    stored = {key: value.to(dtype).clone() for key, value in model.state_dict().items() if "position_ids" not in key}
    model.load_state_dict({key: value.float() for key, value in stored.items()}, strict=False)
    # Tensors that share their memory are stored once each.
    names = sorted(stored)
    if options.get("shards"):
        weight_map = {}
        for index, part in enumerate((names[::2], names[1::2]), 1):
            file = f"model-{index:05}-of-00002.safetensors"
            save_file({key: stored[key] for key in part}, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1) + "\n")
    else:
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    written = {"model_type": "blip-2", "architectures": [cls.__name__], "vision_config": vision, "qformer_config": dict(qformer)}
    if retrieval:
        written |= {"image_text_hidden_size": options.get("dim", 16), "image_token_index": options.get("image_token")}
        if options.get("old"):
            written["qformer_config"]["qformer_text_input"] = written["qformer_config"].pop("use_qformer_text_input")
    written |= {"num_query_tokens": options.get("queries", 5), "text_config": options.get("text", OPT)}
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    side = vision["image_size"]
    files = {"image_processor_type": "BlipImageProcessor", "size": {"height": side, "width": side}, "resample": 3, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(files, indent=2) + "\n")
    pixels = pictures(side)
    scaled = (torch.from_numpy(pixels).double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    values = scaled.permute(0, 3, 1, 2).float().contiguous()
    output = model.vision_model(pixel_values=values, output_hidden_states=True)
    expected = {f"vision.hidden_state.{index}": state for index, state in enumerate(output.hidden_states)}
    queries = model.query_tokens.expand(len(values), -1, -1)
    states = model.qformer(query_embeds=queries, encoder_hidden_states=output.last_hidden_state).last_hidden_state
    expected |= {"pixels": torch.from_numpy(pixels), "vision.last_hidden_state": output.last_hidden_state, "queries": states}
    return folder, model, values, expected


def read(model, tok, values, texts, image_token=None):
    """Cosines and matching logits of every image with every text, by the model's own forward pass."""
    encoded = tok(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    ids, mask = encoded.input_ids, encoded.attention_mask
    whole = dict(input_ids=ids, attention_mask=mask)
    if image_token is not None:
        # As the processor does it: placeholders in front, which the model cuts off.
        front = torch.full((len(ids), model.config.num_query_tokens), image_token)
        whole = dict(input_ids=torch.cat([front, ids], 1), attention_mask=torch.cat([torch.ones_like(front), mask], 1))
    cosines, matches = [], []
    for image in values:
        pixel_values = image[None].expand(len(ids), -1, -1, -1)
        matches.append(model(pixel_values=pixel_values, use_image_text_matching_head=True, **whole).logits_per_image)
        cosines.append(model(pixel_values=image[None], **whole).logits_per_image[0])
    itm = torch.stack(matches)
    return ids, mask, torch.stack(cosines), itm


@torch.no_grad()
def retrieval(name, vision, qformer, options):
    folder, model, values, expected = checkpoint(name, Blip2ForImageTextRetrieval, vision, qformer, options)
    tok = tokenizer_files(folder, options.get("form"))
    texts = [text for text in TEXTS if "[SEP]" not in text]
    ids, mask, cosines, itm = read(model, tok, values, texts, options.get("image_token"))
    states = model.qformer(query_embeds=model.embeddings(input_ids=ids), query_length=0, attention_mask=mask).last_hidden_state
    expected |= {
        "ids": ids, "lengths": mask.sum(1, keepdim=True),
        "vision.pooled": model.vision_projection(expected["queries"]).flatten(1), "text.pooled": model.text_projection(states[:, 0]),
        "cosines": cosines, "logits": itm[..., 1] - itm[..., 0], "probabilities": itm.softmax(-1)[..., 1],
    }
    save(folder, expected, texts)


@torch.no_grad()
def generation(name, vision, qformer, options):
    folder, model, _, expected = checkpoint(name, Blip2ForConditionalGeneration, vision, qformer, options)
    expected["vision.pooled"] = model.language_projection(expected["queries"]).flatten(1)
    save(folder, expected, [])


def main():
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    small = encoder(24, 28, 2) | dict(image_size=16, patch_size=8)
    odd = encoder(30, 29, 3, 1) | dict(image_size=30, patch_size=14, layer_norm_eps=1e-5)
    retrieval("blip2-retrieval", small, encoder(20, 36, 2, 3), {})
    retrieval("blip2-retrieval-odd", odd, encoder(48, 37, 4, 4, cross_attention_frequency=3), {
        "dim": 12, "queries": 7, "image_token": len(PIECES), "old": True, "form": "vocab", "dtype": torch.float16})
    generation("blip2-opt", small, encoder(20, 36, 2, 2), {"shards": True, "dtype": torch.float16})
    generation("blip2-t5", odd, encoder(24, 37, 3, 3), {"text": T5, "queries": 3})


if __name__ == "__main__":
    main()
