"""The concepts, their names and their pictures.

A concept is one emoji of CLDR's groups 3-7 (animals and nature, food and drink,
travel and places, activities, objects) without the clock faces, which differ by
the time they show only. Its names and keywords come from `emojibase-data`; its
pictures from the drawing styles in `STYLES`. `openmoji` is the held-out style:
`train.py` never asks for it.

    python data.py --packages work/node_modules --work work

renders every training picture once into `work/pictures.npz`.
"""

import argparse
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

GROUPS = (3, 4, 5, 6, 7)
CLOCK_FACE = re.compile(r"o’clock$|-thirty$")

# The styles that are trained on and measured: whole emoji sets.
EMOJI_STYLES = (
    "noto",
    "twemoji",
    "fluent-3d",
    "noto-v1",
    "emojione",
    "emojione-monotone",
    "fluent-emoji-flat",
    "fluent-emoji-high-contrast",
    "fxemoji",
    "streamline-emojis",
)
# Icon sets that draw some of the same things. They are trained on, because an
# unseen style is recognised the better the more styles were seen, but they are
# too small and too loosely named to be measured.
ICON_STYLES = ("game-icons", "hugeicons", "lucide", "mdi", "ph", "tabler")
STYLES = EMOJI_STYLES + ICON_STYLES
HELD_OUT = "openmoji"

# Two resolutions of every picture: minification by more than 1.5 would alias
# under bilinear sampling, so `augment.py` picks the nearer one.
LARGE, SMALL = 72, 48


@dataclass(frozen=True)
class Concept:
    """One emoji: its code points and what it is called in both languages."""

    hexcode: str
    en: str
    ko: str
    en_tags: tuple[str, ...]
    ko_tags: tuple[str, ...]
    aliases: tuple[str, ...]


def slug(name: str) -> str:
    """Spells a name the way icon sets do: ASCII words joined by hyphens."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_name.lower().replace("'", "")).strip("-")


def plain_hex(hexcode: str) -> str:
    """Drops the variation selectors, which the sets use inconsistently."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def read_json(path: Path) -> list | dict:
    """Reads one JSON file of a package."""
    return json.loads(path.read_text(encoding="utf-8"))


def load_concepts(packages: Path) -> list[Concept]:
    """Builds the concept table in CLDR order."""
    english = read_json(packages / "emojibase-data/en/data.json")
    korean = {e["hexcode"]: e for e in read_json(packages / "emojibase-data/ko/data.json")}
    unicode_names = {
        plain_hex(e["unified"]): [e["name"] or "", *e["short_names"]]
        for e in read_json(packages / "emoji-datasource-google/emoji.json")
    }
    chosen = [
        e for e in english if e.get("group") in GROUPS and not CLOCK_FACE.search(e["label"])
    ]
    return [
        Concept(
            hexcode=e["hexcode"],
            en=e["label"].lower(),
            ko=korean[e["hexcode"]]["label"],
            en_tags=tuple(t.lower() for t in e.get("tags", [])),
            ko_tags=tuple(korean[e["hexcode"]].get("tags", [])),
            aliases=tuple(
                dict.fromkeys(
                    s
                    for s in map(slug, [e["label"], *unicode_names.get(plain_hex(e["hexcode"]), [])])
                    if s
                )
            ),
        )
        for e in sorted(chosen, key=lambda e: e["order"])
    ]


class PictureSource:
    """Finds the pictures of one style and renders them."""

    def __init__(self, packages: Path, style: str) -> None:
        self.packages = packages
        self.style = style
        self.icons = None
        self.by_hex: dict[str, Path] = {}
        if style in ("noto", "twemoji"):
            vendor = {"noto": "google", "twemoji": "twitter"}[style]
            self._index(packages / f"emoji-datasource-{vendor}/img/{vendor}/64", "png")
        elif style == "fluent-3d":
            self._index(packages / "@lobehub/fluent-emoji-3d/assets", "webp")
        elif style == HELD_OUT:
            self._index(packages / "openmoji/color/svg", "svg")
        else:
            self.icons = read_json(packages / f"@iconify-json/{style}/icons.json")
            chars_file = packages / f"@iconify-json/{style}/chars.json"
            chars = read_json(chars_file) if chars_file.exists() else {}
            self.chars = {plain_hex(code): name for code, name in chars.items()} if chars else {}
            self.joined = {name.replace("-", ""): name for name in self._names()}

    def _index(self, folder: Path, suffix: str) -> None:
        self.by_hex = {plain_hex(p.stem): p for p in folder.glob(f"*.{suffix}")}

    def _names(self) -> Iterator[str]:
        yield from self.icons["icons"]
        for alias, target in self.icons.get("aliases", {}).items():
            # A flipped or turned alias is another emoji, an equal one another name.
            if set(target) == {"parent"} and target["parent"] in self.icons["icons"]:
                yield alias

    def _icon_name(self, concept: Concept) -> str | None:
        name = self.chars.get(plain_hex(concept.hexcode))
        if name:
            return name
        # Icon sets are not made for emoji: only the very name counts there.
        aliases = concept.aliases[:1] if self.style in ICON_STYLES else concept.aliases
        for alias in aliases:
            if alias.replace("-", "") in self.joined:
                return self.joined[alias.replace("-", "")]
        return None

    def has(self, concept: Concept) -> bool:
        """Whether the style draws this concept."""
        if self.icons is None:
            return plain_hex(concept.hexcode) in self.by_hex
        return self._icon_name(concept) is not None

    def _svg(self, concept: Concept) -> str:
        name = self._icon_name(concept)
        name = self.icons.get("aliases", {}).get(name, {}).get("parent", name)
        icon = self.icons["icons"][name]
        width = icon.get("width", self.icons.get("width", 16))
        height = icon.get("height", self.icons.get("height", 16))
        left, top = icon.get("left", 0), icon.get("top", 0)
        body = icon["body"].replace("currentColor", "#000")
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">{body}</svg>'
        )

    def render(self, concept: Concept, size: int) -> Image.Image:
        """Renders one picture to RGBA, `size` pixels square, on transparency."""
        if self.icons is not None:
            picture = rasterise(self._svg(concept), size)
        else:
            path = self.by_hex[plain_hex(concept.hexcode)]
            if path.suffix == ".svg":
                picture = rasterise(path.read_text(encoding="utf-8"), size)
            else:
                picture = Image.open(path).convert("RGBA")
        return fit_square(picture, size)


def rasterise(svg: str, size: int) -> Image.Image:
    """Draws an SVG so that its longer side is `size` pixels."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def fit_square(picture: Image.Image, size: int) -> Image.Image:
    """Scales to fit a transparent square, keeping the aspect ratio."""
    scale = size / max(picture.size)
    fitted = tuple(max(1, round(side * scale)) for side in picture.size)
    if fitted != picture.size:
        # Pillow resizes RGBA premultiplied, so no dark fringe appears.
        picture = picture.resize(fitted, Image.Resampling.BICUBIC)
    square = Image.new("RGBA", (size, size))
    square.paste(picture, ((size - fitted[0]) // 2, (size - fitted[1]) // 2))
    return square


def premultiplied(picture: Image.Image) -> np.ndarray:
    """Returns `[size, size, 4]` u8 with the colour multiplied by alpha."""
    pixels = np.asarray(picture, dtype=np.float32)
    alpha = pixels[..., 3:] / 255
    return np.concatenate([pixels[..., :3] * alpha, pixels[..., 3:]], -1).round().astype(np.uint8)


@lru_cache(maxsize=1)
def load_pictures(work: Path) -> dict[str, np.ndarray]:
    """Loads what `main` stored."""
    with np.load(work / "pictures.npz") as stored:
        return {name: stored[name] for name in stored.files}


def main() -> None:
    """Renders every training picture in both resolutions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, default=Path("node_modules"))
    parser.add_argument("--work", type=Path, default=Path("work"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    concepts = load_concepts(args.packages)
    large, small, concept_ids, style_ids = [], [], [], []
    for style_id, style in enumerate(STYLES):
        source = PictureSource(args.packages, style)
        before = len(large)
        for concept_id, concept in enumerate(concepts):
            if not source.has(concept):
                continue
            picture = source.render(concept, 2 * LARGE)
            large.append(premultiplied(fit_square(picture, LARGE)))
            small.append(premultiplied(fit_square(picture, SMALL)))
            concept_ids.append(concept_id)
            style_ids.append(style_id)
        print(f"{style}: {len(large) - before} pictures")
    np.savez(
        args.work / "pictures.npz",
        large=np.stack(large),
        small=np.stack(small),
        concept=np.array(concept_ids, dtype=np.int64),
        style=np.array(style_ids, dtype=np.int64),
    )
    print(f"{len(concepts)} concepts, {len(large)} pictures")


if __name__ == "__main__":
    main()
