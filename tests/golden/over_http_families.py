"""Compares a running server with transformers on CLIP, BLIP, BLIP-2 and LLaVA checkpoints that nobody has seen before.

    pip install -r tests/golden/requirements.txt
    cargo build --release
    python tests/golden/over_http_families.py --seeds 1-5                    # every family
    python tests/golden/over_http_families.py --families blip captions --seeds 7

Each checkpoint has random widths, depths, heads, image sizes, vocabularies and end tokens; it is made in a temporary
folder, served by the given binary on a free port, and thrown away. Prints a row for each comparison, and fails at the end
if one was out of bounds. Not among the quick tests: it starts a process a checkpoint (25 s for a seed of all families).
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    BertTokenizer,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)
from transformers.image_processing_utils import select_best_resolution
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from generate import ROOT, randomise
from generate_blip import MEAN, PIECES, STD
from generate_blip2 import OPT, T5, model_of
from generate_clip import END, vocabulary
from generate_llava import TEXT
from over_http import DTYPES, Server, Table, as_uri, images, unit

TEXTS = ["a cat", "two dogs and a red car", "A CAT!", "the cat on the car", "a dog " * 30, "24 cats", "picture of a dog", ""]
COSINE, LOGIT, PROBABILITY = 0.9999, 1e-3, 1e-3


def encoder(pick, **more):
    heads = pick.choice([1, 2, 3, 4, 5, 8])
    return dict(hidden_size=heads * pick.choice([4, 7, 8, 16, 24, 36]), num_attention_heads=heads, num_hidden_layers=pick.randint(1, 4),
                intermediate_size=pick.randint(9, 130)) | more


def picture(pick):
    patch = pick.choice([4, 5, 8, 14, 16])
    return dict(patch_size=patch, image_size=patch * pick.randint(1, 7) + pick.choice([0, 0, 1, 3]))


def stored(model, dtype):
    """The state as it is written, in f32 in the model as well."""
    state = {key: value.to(dtype).clone() for key, value in model.state_dict().items() if "position_ids" not in key}
    model.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)
    return state


def write(folder, state, config, processor):
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, default=str))
    files = {key: value for key, value in processor.to_dict().items() if key != "processor_class"}
    files["image_processor_type"] = type(processor).__name__.removesuffix("Pil")
    (folder / "preprocessor_config.json").write_text(json.dumps(files, default=str))


def pixels_of(processor, pictures, **options):
    return torch.cat([torch.as_tensor(np.asarray(processor(image.convert("RGB"), return_tensors="np", **options).pixel_values)).float()
                      for image in pictures])


def emphasise(model):
    """Parameters that transformers leaves so small that nothing could be told by them."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(len(key))
            if key.endswith(("class_embedding", "position_embedding", "query_tokens")):
                parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
            if key.endswith(("LayerNorm.weight", "layernorm.weight")):
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))


def bert(folder, pick, length):
    """A vocabulary of its own length and order behind the control tokens."""
    words = PIECES[5:] + [f"w{index}" for index in range(pick.randint(0, 60))]
    pick.shuffle(words)
    pieces = PIECES[:5] + words
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tok = BertTokenizer(vocab=vocab, model_max_length=length)
    if pick.random() < 0.5:
        (folder / "vocab.txt").write_text("".join(piece + "\n" for piece in pieces))
    else:
        tok.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": length}))
    return tok, len(pieces)


def least_cosine(rows, wanted):
    rows, wanted = np.asarray(rows, np.float64), np.asarray(wanted, np.float64)
    return float((unit(rows.reshape(-1, rows.shape[-1])) * unit(wanted.reshape(-1, wanted.shape[-1]))).sum(1).min())


def matrix(answer, kind, shape):
    return np.array(answer[kind], np.float64).reshape(shape)


def scores(table, answer, expected, more=""):
    for kind, wanted in expected.items():
        wanted = wanted.double().numpy()
        bound = PROBABILITY if kind == "probability" else LOGIT * max(1.0, float(np.abs(wanted).max()))
        table.row(kind + more, float(np.abs(matrix(answer, kind, wanted.shape) - wanted).max()), bound)


def clip(folder, pick, table, arguments):
    act = pick.choice(["quick_gelu", "gelu"])
    length, legacy = pick.choice([5, 12, 33, 77]), pick.random() < 0.4
    vocab, merges = vocabulary()
    kept = pick.randint(0, len(merges))
    dropped = {"".join(merge) for merge in merges[kept:]}
    merges = merges[:kept]
    vocab = {piece: index for index, piece in enumerate(piece for piece in vocab if piece not in dropped)}
    tok = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)
    tok.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "pad_token": END}))
    count = len(vocab)
    vision = encoder(pick, hidden_act=act, **picture(pick))
    text = encoder(pick, hidden_act=act, vocab_size=count, max_position_embeddings=length, bos_token_id=count - 2, eos_token_id=2 if legacy else count - 1)
    config = dict(projection_dim=pick.randint(3, 70), vision_config=vision, text_config=text)
    model = CLIPModel(CLIPConfig(**config, attn_implementation="eager")).eval()
    randomise(model, pick.randint(0, 1 << 30))
    side = vision["image_size"]
    statistics = pick.choice([{}, dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)])
    processor = CLIPImageProcessorPil(size={"shortest_edge": side + pick.choice([0, 0, 1, 2, 3, 7])}, crop_size={"height": side, "width": side}, **statistics)
    write(folder, stored(model, pick.choice(DTYPES)), dict(model_type="clip", **config), processor)
    pictures = images(pick.randint(0, 1 << 30), side)
    encoded = tok(TEXTS, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    whole = model(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask, pixel_values=pixels_of(processor, pictures))
    with Server(arguments.binary, folder, arguments.option) as server:
        uris = [as_uri(image) for image in pictures]
        table.row("texts, cosine", least_cosine(server.embed(TEXTS), whole.text_embeds), COSINE, at_least=True)
        table.row("images, cosine", least_cosine(server.embed([{"image": uri} for uri in uris]), whole.image_embeds), COSINE, at_least=True)
        answer = server.post("/v1/similarity", {"images": uris, "texts": TEXTS})
        logits = whole.logits_per_image
        scores(table, answer, {"logit": logits, "probability": logits.softmax(1)})


def blip_parts(folder, pick, cls):
    length = pick.choice([12, 24, 40])
    tok, count = bert(folder, pick, length)
    vision = encoder(pick, **picture(pick))
    text = encoder(pick, vocab_size=count + 2, max_position_embeddings=length, bos_token_id=count, sep_token_id=pick.choice([3, pick.randint(5, count)]),
                   eos_token_id=2, pad_token_id=0)
    tied = pick.random() < 0.5
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=pick.randint(3, 60))
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    config.text_config._attn_implementation = config.vision_config._attn_implementation = "eager"
    model = cls(config).eval()
    randomise(model, pick.randint(0, 1 << 30))
    emphasise(model)
    if tied:
        model.tie_weights()
    side = vision["image_size"]
    processor = BlipImageProcessorPil(size={"height": side, "width": side}, image_mean=MEAN, image_std=STD)
    written = dict(model_type="blip", architectures=[cls.__name__], text_config=text | {"tie_word_embeddings": tied}, vision_config=vision,
                   image_text_hidden_size=config.image_text_hidden_size)
    state = stored(model, pick.choice(DTYPES))
    if tied:
        state = {key: value for key, value in state.items() if ".predictions.decoder." not in key}
    write(folder, state, written, processor)
    return model, tok, processor, side, length


def blip(folder, pick, table, arguments):
    model, tok, processor, side, length = blip_parts(folder, pick, BlipForImageTextRetrieval)
    pictures = images(pick.randint(0, 1 << 30), side)
    encoded = tok(TEXTS, padding=True, truncation=True, max_length=length, return_tensors="pt")
    ids, mask, values = encoded.input_ids, encoded.attention_mask, pixels_of(processor, pictures)
    cosines = model(input_ids=ids, attention_mask=mask, pixel_values=values, use_itm_head=False).itm_score
    itm = torch.stack([model(input_ids=ids, attention_mask=mask, pixel_values=image[None].expand(len(ids), -1, -1, -1)).itm_score for image in values])
    with Server(arguments.binary, folder, arguments.option) as server:
        answer = server.post("/v1/similarity", {"images": [as_uri(image) for image in pictures], "texts": TEXTS})
        scores(table, answer, {"cosine": cosines, "logit": itm[..., 1] - itm[..., 0], "probability": itm.softmax(-1)[..., 1]})
        # The token that the published models were trained with, which the tokenizer does not have.
        ids = torch.cat([torch.full((len(ids), 1), model.config.text_config.bos_token_id), ids[:, 1:]], 1)
        itm = torch.stack([model(input_ids=ids, attention_mask=mask, pixel_values=image[None].expand(len(ids), -1, -1, -1)).itm_score for image in values])
        answer = server.post("/v1/similarity", {"images": [as_uri(image) for image in pictures], "texts": TEXTS, "matching_token": "enc"})
        scores(table, answer, {"logit": itm[..., 1] - itm[..., 0], "probability": itm.softmax(-1)[..., 1]}, " with [ENC]")


def captions(folder, pick, table, arguments):
    model, tok, processor, side, length = blip_parts(folder, pick, BlipForConditionalGeneration)
    # Of the model's own size, so that no rounding of a pixel chooses between two words.
    pictures = images(pick.randint(0, 1 << 30), side)[:1] + [image.resize((side, side)) for image in images(pick.randint(0, 1 << 30), side)[2:5:2]]
    start, different, searched, others = model.config.text_config.bos_token_id, 0, 0, 0

    def text(ids):
        # The start token is not in the tokenizer's vocabulary, and neither is the id behind it.
        return tok.decode([piece for piece in ids if piece < len(tok)], skip_special_tokens=True)

    with Server(arguments.binary, folder, arguments.option) as server:
        for prompt in (None, "a cat", "two dogs and"):
            for count in (1, 6):
                more = {"input_ids": torch.tensor([[start, 3]])} if prompt is None else {"input_ids": tok(prompt, return_tensors="pt").input_ids}
                expected = [model.generate(pixel_values=values[None], max_new_tokens=count, do_sample=False, num_beams=1, **more)[0].tolist()
                            for values in pixels_of(processor, pictures)]
                body = {"images": [as_uri(image) for image in pictures], "max_new_tokens": count} | ({} if prompt is None else {"prompt": prompt})
                answer = server.post("/v1/captions", body)
                different += sum(caption["token_ids"] != ids for caption, ids in zip(answer["captions"], expected))
                others += sum(caption["text"] != text(ids) for caption, ids in zip(answer["captions"], expected))
            for _ in range(4):
                search = dict(num_beams=pick.randint(2, 8), length_penalty=pick.choice([-1.0, 0.0, 1.0, 2.0]), early_stopping=pick.choice([True, False, "never"]),
                              repetition_penalty=pick.choice([1.0, 1.4]), max_new_tokens=pick.randint(2, 6))
                expected = [model.generate(pixel_values=values[None], do_sample=False, **search, **more)[0].tolist() for values in pixels_of(processor, pictures)]
                body = {"images": [as_uri(image) for image in pictures], **search} | ({} if prompt is None else {"prompt": prompt})
                answer = server.post("/v1/captions", body)
                searched += sum(caption["token_ids"] != ids for caption, ids in zip(answer["captions"], expected))
                others += sum(caption["text"] != text(ids) for caption, ids in zip(answer["captions"], expected))
    table.row("captions with other ids", different, 0)
    table.row("captions by several beams with other ids", searched, 0)
    table.row("captions with another text", others, 0)


def blip2_parts(folder, pick, cls):
    length = pick.choice([12, 24, 40])
    retrieval = cls is Blip2ForImageTextRetrieval
    vision = encoder(pick, **picture(pick))
    qformer = encoder(pick, cross_attention_frequency=pick.randint(1, 3))
    options = dict(queries=pick.randint(2, 33), dim=pick.randint(3, 60), text=pick.choice([OPT, T5]), seed=pick.randint(0, 1 << 30))
    tok = None
    if retrieval:
        tok, count = bert(folder, pick, length)
        qformer |= dict(vocab_size=count + 1, max_position_embeddings=length, use_qformer_text_input=True)
    model = model_of(cls, vision, qformer, options)
    side = vision["image_size"]
    processor = BlipImageProcessorPil(size={"height": side, "width": side}, image_mean=MEAN, image_std=STD)
    written = dict(model_type="blip-2", architectures=[cls.__name__], vision_config=vision, qformer_config=qformer, text_config=options["text"],
                   num_query_tokens=options["queries"], image_text_hidden_size=options["dim"])
    write(folder, stored(model, pick.choice(DTYPES)), written, processor)
    return model, tok, processor, side, length


def blip2(folder, pick, table, arguments):
    model, tok, processor, side, length = blip2_parts(folder, pick, Blip2ForImageTextRetrieval)
    pictures = images(pick.randint(0, 1 << 30), side)
    encoded = tok(TEXTS, padding=True, truncation=True, max_length=length, return_tensors="pt")
    whole = dict(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask)
    values = pixels_of(processor, pictures)
    itm = torch.stack([model(pixel_values=image[None].expand(len(TEXTS), -1, -1, -1), use_image_text_matching_head=True, **whole).logits_per_image
                       for image in values])
    itc = [model(pixel_values=image[None], **whole) for image in values]
    cosines = torch.cat([output.logits_per_image for output in itc])
    with Server(arguments.binary, folder, arguments.option) as server:
        uris = [as_uri(image) for image in pictures]
        answer = server.post("/v1/embeddings", {"input": [{"image": uri} for uri in uris], "multi_vector": True})
        vectors = np.array([row["embedding"] for row in answer["data"]])
        table.row("images, cosine of every vector", least_cosine(vectors, torch.cat([output.image_embeds for output in itc])), COSINE, at_least=True)
        table.row("texts, cosine", least_cosine(server.embed(TEXTS), itc[0].text_embeds), COSINE, at_least=True)
        answer = server.post("/v1/similarity", {"images": uris, "texts": TEXTS})
        scores(table, answer, {"cosine": cosines, "logit": itm[..., 1] - itm[..., 0], "probability": itm.softmax(-1)[..., 1]})


def blip2_eyes(folder, pick, table, arguments):
    model, _, processor, side, _ = blip2_parts(folder, pick, Blip2ForConditionalGeneration)
    pictures = images(pick.randint(0, 1 << 30), side)
    values = pixels_of(processor, pictures)
    seen = model.vision_model(pixel_values=values).last_hidden_state
    states = model.qformer(query_embeds=model.query_tokens.expand(len(values), -1, -1), encoder_hidden_states=seen).last_hidden_state
    with Server(arguments.binary, folder, arguments.option) as server:
        for output, expected in (("last_hidden_state", seen), ("qformer", states), ("language_projection", model.language_projection(states))):
            answer = server.post("/v1/features", {"images": [as_uri(image) for image in pictures], "output": output})
            rows = np.array([row["features"] for row in answer["data"]])
            table.row(f"{output}, cosine of every vector", least_cosine(rows, expected), COSINE, at_least=True)


def llava(folder, pick, table, arguments):
    onevision = pick.random() < 0.6
    vision = encoder(pick, **picture(pick))
    side = vision["image_size"]
    grids = [[rows, columns] for rows in range(1, 5) for columns in range(1, 5)]
    sizes = [[rows * side, columns * side] for rows, columns in pick.sample(grids, pick.randint(1, len(grids)))]
    layer = -pick.randint(1, vision["num_hidden_layers"])
    if onevision:
        vision |= dict(model_type="siglip_vision_model", vision_use_head=False)
        config_class, model_class, kind = LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, "llava_onevision"
        processor = LlavaOnevisionImageProcessorPil(size={"height": side, "width": side}, image_grid_pinpoints=sizes, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    else:
        vision |= dict(model_type="clip_vision_model", projection_dim=8, hidden_act=pick.choice(["quick_gelu", "gelu"]))
        config_class, model_class, kind = LlavaNextConfig, LlavaNextForConditionalGeneration, "llava_next"
        processor = LlavaNextImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=sizes)
    text = TEXT | dict(model_type="qwen2" if onevision else "llama")
    config = config_class(vision_config=vision, text_config=text, image_token_index=31, image_grid_pinpoints=sizes, vision_feature_layer=layer)
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    randomise(model, pick.randint(0, 1 << 30))
    old = pick.random() < 0.5
    names = {key: key.removeprefix("model.").replace("vision_tower.", "vision_tower.vision_model.", 1) if old else key for key in model.state_dict()}
    state = {names[key]: value for key, value in stored(model, pick.choice(DTYPES)).items()}
    write(folder, state, dict(model_type=kind, vision_config=vision, vision_feature_layer=layer, image_grid_pinpoints=sizes), processor)
    pictures = images(pick.randint(0, 1 << 30), side)
    with Server(arguments.binary, folder, arguments.option) as server:
        answer = server.post("/v1/features", {"images": [as_uri(image) for image in pictures], "tiles": "anyres"})
        worst, different = 1.0, 0
        for image, row in zip(pictures, answer["data"]):
            shape = [image.height, image.width]
            best = select_best_resolution(tuple(shape), sizes)
            views = torch.as_tensor(np.asarray(processor(images=image.convert("RGB"), return_tensors="np").pixel_values[0])).float()
            expected = model.model.vision_tower(pixel_values=views, output_hidden_states=True).hidden_states[layer]
            rows = np.array([view["features"] for view in row["views"]])
            grid = [best[0] // side, best[1] // side]
            padded = [row["padding"][0] + row["inner_size"][0] + row["padding"][2], row["padding"][1] + row["inner_size"][1] + row["padding"][3]]
            equal = row["tile_grid"] == grid and row["image_size"] == shape and padded == list(best) and rows.shape == tuple(expected.shape)
            different += not equal
            worst = min(worst, least_cosine(rows, expected) if equal else -1.0)
    table.row("images cut in another way", different, 0)
    table.row(f"features of {kind}'s views, cosine of every token", worst, COSINE, at_least=True)


FAMILIES = dict(clip=clip, blip=blip, captions=captions, blip2=blip2, blip2_eyes=blip2_eyes, llava=llava)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/siglip-server"))
    parser.add_argument("--seeds", default="1-5", help="one seed, or FIRST-LAST")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--option", action="append", default=[], help="passed on to the server, once each: --option=--dtype=f16")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    print("| checkpoint | what | error | bound |\n|---|---|---|---|")
    failed = False
    first, _, last = arguments.seeds.partition("-")
    for name in arguments.families:
        for seed in range(int(first), int(last or first) + 1):
            table = Table(f"{name} {seed}")
            with tempfile.TemporaryDirectory() as folder:
                FAMILIES[name](Path(folder), random.Random(f"{name} {seed}"), table, arguments)
            failed |= table.failed
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
