"""Writes small SentencePiece models, and the ids that transformers' `SiglipTokenizer` reads from them.

    pip install -r tests/golden/requirements.txt
    python tests/golden/generate_tokenizers.py
    python tests/golden/generate_tokenizers.py --charsmap nmt_nfkc --out FOLDER   # a published charsmap, 240 kB
"""

import argparse
import io
import json
import tempfile
from pathlib import Path

import sentencepiece
from transformers import SiglipTokenizer

HERE = Path(__file__).parent
LENGTH = 24

# What the published models' NFKC does, in little: one to one, one to many, many to one, the longer of two
# matches, nothing at all, and what becomes a space.
RULES = {
    "\u2581": " ", "\u3000": " ", "\u00a0": " ", "\u200b": " ", "\uff21": "A", "\ufb01": "fi", "\u2460": "1", "\u338f": "kg",
    "e\u0301": "\u00e9", "e\u0301\u0323": "\u1eb9\u0301", "\u00ad": "", "\u2122": "TM", "\u2026": "...",
}
SUBJECTS = "cat dog car horse apple guitar café über photo sunset mountain river Zürich street market child".split()
PLACES = "on the table|in San Francisco|under a bridge|near the Zürich lake|with red flowers|behind a window".split("|")
TEXTS = [
    "a photo of a cat", "A Photo of a CAT.", "the real mountain view", "Zürich", "San Francisco", "", "   ", "!?.",
    "well-known, isn't_it?", "cats - dogs", "a\tb\n c", " leading and trailing ", "e\u0301clair cafe\u0301 e\u0301\u0323x",
    "\uff21 \ufb01ne \u2460 5\u338f", "so\u00adft hy\u00adphen", "wait\u2026 TM\u2122", "\u3000wide\u3000space\u00a0here\u200bthere",
    "\u2581already marked \u2581\u2581 twice", "고양이 사진", "日本語のテキスト 🐈", "naïve façade œuvre", "ΣΑΣ ὈΔΥΣΣΕΎΣ İstanbul",
    "supercalifragilisticexpialidocious", "0123456789 3.14159", "one two three four five six seven eight nine ten " * 4,
    "ﷺ ½ ﬃ Å \u1e9b\u0323", "\u0130I\u0131i", "x" * 60,
]


def corpus():
    for number, subject in enumerate(SUBJECTS):
        for place in PLACES:
            for start in ("a photo of a", "the", "two", "one old", "a small"):
                yield f"{start} {subject}{'s' * (number % 2)} {place}"


def train(folder, charsmap, **options):
    folder.mkdir(parents=True, exist_ok=True)
    written = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        if charsmap is None:
            for source, target in RULES.items():
                codes = (" ".join(f"{ord(character):X}" for character in text) for text in (source, target))
                rules.write("\t".join(codes) + "\n")
            rules.flush()
            normalization = dict(normalization_rule_tsv=rules.name)
        else:
            normalization = dict(normalization_rule_name=charsmap)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=corpus(), model_writer=written, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
            hard_vocab_limit=False, num_threads=1, minloglevel=2, **normalization, **options,
        )
    (folder / "spiece.model").write_bytes(written.getvalue())
    tok = SiglipTokenizer(str(folder / "spiece.model"), model_max_length=LENGTH)
    ids = {}
    for text in TEXTS:
        ids[text] = tok(text, padding="max_length", max_length=LENGTH, truncation=True).input_ids
    (folder / "expected.json").write_text(json.dumps(ids, ensure_ascii=False, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--charsmap", help="one of SentencePiece's own normalisations instead of the small one")
    parser.add_argument("--out", type=Path, default=HERE / "sentencepiece")
    arguments = parser.parse_args()
    train(arguments.out / "bytes", arguments.charsmap, vocab_size=480, byte_fallback=True)
    train(arguments.out / "plain", arguments.charsmap, vocab_size=200)


if __name__ == "__main__":
    main()
