"""Writes the small random BLIP checkpoints, and what transformers makes of them.

    pip install -r tests/golden/requirements.txt
    python tests/golden/generate_blip.py

Everything is seeded: a second run writes the same values.
"""

import json
import shutil

import torch
from safetensors.torch import save_file
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval

from generate import HERE, encoder, pictures, randomise, save

TEXTS = ["a cat", "A  CAT!", "two dogs and a red car", "", "caf\u00e9 \uace0\uc591\uc774", "cat [SEP] dog", "unseen w0rds", "a dog " * 9]
PROMPTS = [None, "a cat", "two dogs and"]
# Of the searches over beams: how many there are, the power of the length, when they end, and the penalty for repetitions.
BEAMS = [(2, 1.0, False, 1.0), (3, 0.0, "never", 1.0), (4, 2.0, True, 1.0), (8, -1.0, False, 1.3), (5, 3.0, "never", 1.0)]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "##s", "two", "and", "red", "car", "cafe", "!", "[", "]", "sep",
          "\uace0", "##\uc591", "##\uc774", "unseen", "w", "##0", "##r", "##d", "on", "the", "picture", "of"]
LENGTH = 24
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def tokenizer_files(folder, form):
    vocab = {piece: index for index, piece in enumerate(PIECES)}
    tok = BertTokenizer(vocab=vocab, model_max_length=LENGTH)
    if form == "vocab":
        (folder / "vocab.txt").write_text("".join(piece + "\n" for piece in PIECES))
    else:
        tok.backend_tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": LENGTH}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tok


def checkpoint(name, cls, vision, text, options):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tok = tokenizer_files(folder, options.get("form"))
    # The start token, and another behind it, are not in the tokenizer's vocabulary, as in the published files.
    text |= dict(vocab_size=len(PIECES) + 2, max_position_embeddings=LENGTH, bos_token_id=len(PIECES), sep_token_id=options.get("end", 3), eos_token_id=4, pad_token_id=0)
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=options.get("dim", 16))
    tied = options.get("tied", True)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    config.text_config._attn_implementation = config.vision_config._attn_implementation = "eager"
    model = cls(config).eval()
    randomise(model, seed=sum(map(ord, name)))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("class_embedding", "position_embedding")):
                generator = torch.Generator().manual_seed(len(key))
                parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
            if key.endswith("LayerNorm.weight"):
                parameter.add_(1)
    if tied:
        model.tie_weights()
    dtype = options.get("dtype", torch.float32)
    stored = {key: value.to(dtype).clone() for key, value in model.state_dict().items() if "position_ids" not in key}
    model.load_state_dict({key: value.float() for key, value in stored.items()}, strict=False)
    if tied and options.get("once"):
        stored = {key: value for key, value in stored.items() if ".predictions.decoder." not in key}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    keep = ("model_type", "architectures", "image_text_hidden_size", "text_config", "vision_config", "tie_word_embeddings")
    config = {key: value for key, value in config.items() if key in keep} | {"architectures": [cls.__name__]}
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")
    side = vision["image_size"]
    files = {"image_processor_type": "BlipImageProcessor", "size": {"height": side, "width": side}, "resample": 3, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(files, indent=2) + "\n")
    pixels = pictures(side)
    scaled = (torch.from_numpy(pixels).double() / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    return folder, model, tok, pixels, scaled.permute(0, 3, 1, 2).float().contiguous()


def seen(model, values):
    output = model.vision_model(pixel_values=values, output_hidden_states=True)
    tensors = {f"vision.hidden_state.{index}": state for index, state in enumerate(output.hidden_states)}
    return output, tensors | {"vision.last_hidden_state": output.last_hidden_state}


@torch.no_grad()
def retrieval(name, vision, text, options):
    folder, model, tok, pixels, values = checkpoint(name, BlipForImageTextRetrieval, vision, text, options)
    output, expected = seen(model, values)
    texts = [text for text in TEXTS if "[SEP]" not in text]
    encoded = tok(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    ids, mask = encoded.input_ids, encoded.attention_mask
    read = model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    expected |= {
        "pixels": torch.from_numpy(pixels), "ids": ids, "lengths": mask.sum(1, keepdim=True),
        "vision.pooled": model.vision_proj(output.last_hidden_state[:, 0]), "text.pooled": model.text_proj(read[:, 0]),
    }
    for start, first in (("cls", 2), ("enc", len(PIECES))):
        ids = ids.clone()
        ids[:, 0] = first
        rows = []
        for image in values:
            pixel_values = image[None].expand(len(ids), -1, -1, -1)
            rows.append(model(input_ids=ids, attention_mask=mask, pixel_values=pixel_values).itm_score)
        itm = torch.stack(rows)
        expected |= {f"{start}.logits": itm[..., 1] - itm[..., 0], f"{start}.probabilities": itm.softmax(-1)[..., 1]}
    save(folder, expected, texts)


@torch.no_grad()
def captions(name, vision, text, options):
    folder, model, tok, pixels, values = checkpoint(name, BlipForConditionalGeneration, vision, text, options)
    output, expected = seen(model, values)
    expected |= {"pixels": torch.from_numpy(pixels), "vision.pooled": output.pooler_output}
    written = []
    for index, image in enumerate(values):
        for prompt in PROMPTS:
            more = {} if prompt is None else dict(tok(prompt, return_tensors="pt"))
            more.pop("token_type_ids", None)
            if prompt is None:
                more["input_ids"] = torch.tensor([[len(PIECES), 3]])
            for count in (1, 12):
                ids = model.generate(pixel_values=image[None], max_new_tokens=count, do_sample=False, num_beams=1, use_cache=False, **more)[0]
                cached = model.generate(pixel_values=image[None], max_new_tokens=count, do_sample=False, num_beams=1, use_cache=True, **more)[0]
                assert ids.tolist() == cached.tolist(), (ids, cached)
                known = [piece for piece in ids.tolist() if piece < len(PIECES)]
                written.append({"image": index, "prompt": prompt, "max_new_tokens": count, "ids": ids.tolist(),
                                "text": tok.decode(known, skip_special_tokens=True)})
            for beams, power, stopping, penalty in BEAMS:
                searched = model.generate(pixel_values=image[None], max_new_tokens=12, do_sample=False, num_beams=beams, length_penalty=power,
                                          early_stopping=stopping, repetition_penalty=penalty, **more)[0].tolist()
                known = [piece for piece in searched if piece < len(PIECES)]
                written.append({"image": index, "prompt": prompt, "max_new_tokens": 12, "num_beams": beams, "length_penalty": power,
                                "early_stopping": stopping, "repetition_penalty": penalty, "ids": searched,
                                "text": tok.decode(known, skip_special_tokens=True)})
    save(folder, expected, [json.dumps(caption, ensure_ascii=False) for caption in written])


def main():
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    small = encoder(24, 28, 2)
    picture = dict(image_size=16, patch_size=8)
    retrieval("blip-retrieval", small | picture, encoder(20, 36, 2), {})
    retrieval("blip-retrieval-odd", encoder(30, 29, 3, 1, image_size=30, patch_size=14, layer_norm_eps=1e-6), encoder(48, 37, 4, 3), {"dim": 12, "dtype": torch.float16, "form": "vocab"})
    captions("blip-captions", small | picture, encoder(20, 36, 2), {"once": True, "end": 21})
    captions("blip-captions-untied", small | picture, encoder(24, 36, 3, 1), {"tied": False, "form": "vocab"})


if __name__ == "__main__":
    main()
