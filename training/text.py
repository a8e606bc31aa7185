"""What the concepts are called, in captions, and which captions hold for which.

A caption states one or more keys (a name or a keyword of a concept, in English
or Korean) in a template. It holds for every concept that has all of its keys,
and against every concept that has none of them. In between it is left out of
the loss: a cat's face is not "cat" alone, but calling it wrong would be a lie.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from data import Concept
from model import EOS_ID, PAD_ID, TEXT_LENGTH, UNK_ID, VOCAB_SIZE

ENGLISH_TEMPLATES = (
    "{a}",
    "{x}",
    "the {x}",
    "a photo of {a}",
    "a photo of {x}",
    "a picture of {a}",
    "a picture of {x}",
    "This is a photo of {x}.",
    "This is a photo of {a}.",
    "this is a picture of {a}",
    "an image of {a}",
    "a drawing of {a}",
    "an emoji of {a}",
    "an icon of {x}",
    "{x} emoji",
    "a cartoon of {a}",
    "there is {a} in this picture",
)
KOREAN_TEMPLATES = (
    "{x} 사진",
    "{x}의 사진",
    "{x} 그림",
    "{x}의 그림",
    "{x} 이미지",
    "{x} 이모지",
    "{x} 아이콘",
    "이것은 {x} 사진입니다.",
    "이 사진은 {x}입니다",
    "{x} 사진이다",
)


@dataclass(frozen=True)
class Caption:
    """A caption of `concept`, which states `keys`."""

    text: str
    concept: int
    keys: tuple[int, ...]
    is_name: bool


def with_article(name: str) -> str:
    """Prefixes the indefinite article."""
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def english(template: str, name: str) -> str:
    """Fills an English template."""
    return template.format(x=name, a=with_article(name))


class Captions:
    """Draws captions and judges them against concepts."""

    def __init__(self, concepts: Sequence[Concept]) -> None:
        self.concepts = concepts
        self.names = [{"en": c.en, "ko": c.ko} for c in concepts]
        self.keywords = [
            {
                "en": list(dict.fromkeys([*c.en_tags, *(a.replace("-", " ") for a in c.aliases)])),
                "ko": list(dict.fromkeys(c.ko_tags)),
            }
            for c in concepts
        ]
        keys = sorted({k for i in range(len(concepts)) for k in self._keys(i)})
        self.key_ids = {key: n for n, key in enumerate(keys)}
        self.has_key = torch.zeros(len(keys), len(concepts), dtype=torch.bool)
        self.is_named = torch.zeros(len(keys), len(concepts), dtype=torch.bool)
        for i, names in enumerate(self.names):
            for key in self._keys(i):
                self.has_key[self.key_ids[key], i] = True
            for name in names.values():
                self.is_named[self.key_ids[name], i] = True

    def _keys(self, concept: int) -> list[str]:
        return [
            *self.names[concept].values(),
            *self.keywords[concept]["en"],
            *self.keywords[concept]["ko"],
        ]

    def draw(self, concept: int, rng: random.Random, richness: float) -> Caption:
        """Draws a caption: the plain name at richness 0, anything at 1."""
        language = "en" if rng.random() < 0.55 else "ko"
        keywords = self.keywords[concept][language]
        kind = rng.random()
        name = self.names[concept][language]
        if kind > 1 - 0.2 * richness and len(keywords) > 1:
            chosen = rng.sample(keywords, min(len(keywords), rng.randint(2, 4)))
            return self._caption(", ".join(chosen), concept, chosen)
        stated = name
        if kind > 1 - 0.5 * richness and keywords:
            stated = rng.choice(keywords)
        text = stated
        if rng.random() < 0.5 * richness:
            if language == "en":
                text = english(rng.choice(ENGLISH_TEMPLATES), stated)
            else:
                text = rng.choice(KOREAN_TEMPLATES).format(x=stated)
        return self._caption(text, concept, [stated])

    def name(self, concept: int, language: str) -> Caption:
        """Returns a concept's plain name."""
        name = self.names[concept][language]
        return self._caption(name, concept, [name])

    def _caption(self, text: str, concept: int, stated: Sequence[str]) -> Caption:
        keys = tuple(self.key_ids[s] for s in stated)
        is_name = len(keys) == 1 and bool(self.is_named[keys[0]].any())
        return Caption(text, concept, keys, is_name)

    def targets(self, captions: Sequence[Caption]) -> torch.Tensor:
        """Judges captions against the concepts.

        * returns `[concepts, captions]`: +1 holds, -1 does not, 0 left out
        """
        out = torch.empty(len(self.concepts), len(captions))
        for column, caption in enumerate(captions):
            rows = self.has_key[list(caption.keys)]
            holds = self.is_named[caption.keys[0]] if caption.is_name else rows.all(0)
            out[:, column] = torch.where(holds, 1.0, torch.where(rows.any(0), 0.0, -1.0))
            out[caption.concept, column] = 1.0
        return out

    def corpus(self) -> list[str]:
        """Returns the texts that the tokenizer is trained on."""
        texts = []
        for i, names in enumerate(self.names):
            # Names matter most, so they weigh most.
            texts += 4 * list(names.values())
            texts += self.keywords[i]["en"] + self.keywords[i]["ko"]
            texts += [english(t, names["en"]) for t in ENGLISH_TEMPLATES]
            texts += [t.format(x=names["ko"]) for t in KOREAN_TEMPLATES]
        return texts


def train_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Trains the BPE tokenizer, which pads and truncates by itself.

    ASCII punctuation is deleted as in SigLIP's own canonical form, so a text
    means the same whether a server canonicalises it first or not.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=[chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789"),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    special = {"<pad>": PAD_ID, "</s>": EOS_ID, "<unk>": UNK_ID}
    assert all(tokenizer.token_to_id(t) == i for t, i in special.items()), "special ids moved"
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", EOS_ID)]
    )
    tokenizer.enable_truncation(TEXT_LENGTH)
    tokenizer.enable_padding(length=TEXT_LENGTH, pad_id=PAD_ID, pad_token="<pad>")
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Returns padded ids `[texts, TEXT_LENGTH]`."""
    return torch.tensor([e.ids for e in tokenizer.encode_batch(list(texts))])
