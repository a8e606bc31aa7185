"""New compositions of the stored pictures, a batch at a time, in torch.

`strength` goes from 0 (the picture as it is, on white) to 1 (any place, scale
and background, in a changed drawing style). The style changes are what carries
over to a style never seen: outlines, line art, other colours, silhouettes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

SIZE = 64
# Below this scale the small stored picture is nearer to its drawn size.
SMALL_BELOW = 0.75


@dataclass(frozen=True)
class Composition:
    """A batch ready for the image tower."""

    pixel_values: torch.Tensor  # [batch, 3, 64, 64], RGB in [-1, 1]
    coverage: torch.Tensor  # [batch, 64, 64], how much of a pixel the drawing covers


def compose(large: torch.Tensor, small: torch.Tensor, strength: float) -> Composition:
    """Composes premultiplied RGBA u8 pictures `[batch, side, side, 4]` anew."""
    batch = large.shape[0]
    theta, scale = placements(batch, strength)
    layers = torch.empty(batch, 4, SIZE, SIZE)
    use_small = scale < SMALL_BELOW
    for source, chosen in ((small, use_small), (large, ~use_small)):
        if chosen.any():
            rgba = source[chosen].permute(0, 3, 1, 2).float() / 255
            shape = [int(chosen.sum()), 4, SIZE, SIZE]
            grid = F.affine_grid(theta[chosen], shape, align_corners=False)
            layers[chosen] = F.grid_sample(rgba, grid, align_corners=False)
    alpha = layers[:, 3:]
    colour = (layers[:, :3] / alpha.clamp_min(1e-3)).clamp(0, 1)
    colour = recolour(colour, strength)
    colour, alpha = redraw(colour, alpha, strength)
    background = backgrounds(batch, strength)
    background = keep_contrast(colour, alpha, background)
    rgb = colour * alpha + background * (1 - alpha)
    rgb = degrade(rgb, strength)
    return Composition(rgb.clamp(0, 1) * 2 - 1, alpha[:, 0])


def chance(batch: int, probability: float) -> torch.Tensor:
    """A coin per picture, shaped to select `[batch, 1, 1, 1]`."""
    return (torch.rand(batch) < probability)[:, None, None, None]


def uniform(batch: int, low: float, high: float) -> torch.Tensor:
    """One number per picture, shaped to broadcast over an image."""
    return torch.empty(batch, 1, 1, 1).uniform_(low, high)


def placements(batch: int, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws output-to-input affine maps `[batch, 2, 3]` and the scales."""
    scale = torch.empty(batch).uniform_(1 - 0.5 * strength, 1.0)
    angle = torch.empty(batch).normal_(0, 0.17 * strength).clamp(-0.5, 0.5)
    aspect = torch.empty(batch).normal_(0, 0.08 * strength).exp()
    shear = torch.empty(batch).normal_(0, 0.06 * strength)
    mirror = torch.where(torch.rand(batch) < 0.4 * strength, -1.0, 1.0)
    # A little beyond the edge, so that a cropped drawing is known too.
    room = 1 - scale + 0.06 * strength
    x, y = (torch.empty(batch).uniform_(-1, 1) * room for _ in range(2))
    cos, sin = angle.cos(), angle.sin()
    inverse_x, inverse_y = mirror / (scale * aspect), aspect / scale
    rows = torch.stack(
        [
            torch.stack([cos * inverse_x, (sin + shear) * inverse_x], -1),
            torch.stack([-sin * inverse_y, cos * inverse_y], -1),
        ],
        1,
    )
    shift = -(rows @ torch.stack([x, y], -1)[:, :, None])
    return torch.cat([rows, shift], -1), scale


def luminance(rgb: torch.Tensor) -> torch.Tensor:
    """Rec. 601 luma, `[batch, 1, h, w]`."""
    return (rgb * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def random_colours(batch: int) -> torch.Tensor:
    """Any RGB colour, `[batch, 3, 1, 1]`."""
    return torch.rand(batch, 3, 1, 1)


def recolour(rgb: torch.Tensor, strength: float) -> torch.Tensor:
    """Changes the palette of some pictures; each gets at most one change."""
    batch = rgb.shape[0]
    choice = torch.rand(batch)[:, None, None, None]
    grey = luminance(rgb)
    out = rgb
    edge = 0.0
    for share, changed in (
        (0.10, lambda: grey.expand_as(rgb)),
        (0.12, lambda: mix_channels(rgb)),
        (0.05, lambda: 1 - rgb),
        (0.08, lambda: duotone(grey)),
        (0.05, lambda: (rgb * 4).round() / 4),
        (0.03, lambda: random_colours(batch).expand_as(rgb)),
    ):
        selected = (choice >= edge) & (choice < edge + share * strength)
        edge += share * strength
        if selected.any():
            out = torch.where(selected, changed(), out)
    gain = 1 + torch.randn(batch, 3, 1, 1) * 0.12 * strength
    contrast = uniform(batch, 1 - 0.35 * strength, 1 + 0.3 * strength)
    saturation = uniform(batch, 1 - 0.6 * strength, 1 + 0.4 * strength)
    grey = luminance(out)
    out = (grey + (out - grey) * saturation) * gain
    return ((out - 0.5) * contrast + 0.5 + torch.randn(batch, 1, 1, 1) * 0.08 * strength).clamp(0, 1)


def mix_channels(rgb: torch.Tensor) -> torch.Tensor:
    """Replaces each channel by a random convex mixture: a hue shift and more."""
    weights = torch.rand(rgb.shape[0], 3, 3).pow(3)
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("bij,bjhw->bihw", weights, rgb)


def duotone(grey: torch.Tensor) -> torch.Tensor:
    """Maps dark to one random colour and light to another, lighter one."""
    dark, light = random_colours(grey.shape[0]) * 0.6, 0.5 + random_colours(grey.shape[0]) * 0.5
    return dark + (light - dark) * grey


def redraw(
    rgb: torch.Tensor, alpha: torch.Tensor, strength: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gives some pictures dark contours, or leaves nothing but the contours."""
    batch = rgb.shape[0]
    outlined = chance(batch, 0.22 * strength)
    inked = chance(batch, 0.22 * strength)
    line_art = chance(batch, 0.09 * strength)
    if not (outlined | inked | line_art).any():
        return rgb, alpha
    ink = random_colours(batch) * 0.25
    flat = rgb * alpha + (1 - alpha)
    rise = F.max_pool2d(flat, 3, 1, 1) + F.max_pool2d(-flat, 3, 1, 1)
    contour = (rise.amax(1, keepdim=True) * uniform(batch, 1.5, 3.5) - 0.2).clamp(0, 1)
    rgb = torch.where(line_art, 0.85 + 0.15 * random_colours(batch).expand_as(rgb), rgb)
    drawn = torch.where(inked | line_art, contour, torch.zeros_like(contour))
    rgb = rgb + (ink - rgb) * drawn
    grown = F.max_pool2d(alpha, 3, 1, 1)
    ring = torch.where(outlined | line_art, grown - alpha, torch.zeros_like(alpha))
    total = alpha + ring
    rgb = (rgb * alpha + ink * ring) / total.clamp_min(1e-3)
    return rgb, total


def backgrounds(batch: int, strength: float) -> torch.Tensor:
    """White, plain, gradient or blotchy, `[batch, 3, 64, 64]`."""
    first, second = random_colours(batch), random_colours(batch)
    light = chance(batch, 0.5)
    first = torch.where(light, 0.5 + first / 2, first)
    across = torch.linspace(0, 1, SIZE)
    tilt = uniform(batch, 0, 1)
    ramp = tilt * across[None, None, :, None] + (1 - tilt) * across[None, None, None, :]
    blotches = F.interpolate(torch.rand(batch, 3, 5, 5), size=SIZE, mode="bilinear")
    kind = torch.rand(batch)[:, None, None, None]
    plain = first.expand(batch, 3, SIZE, SIZE)
    drawn = torch.where(kind < 0.2, first + (second - first) * ramp, plain)
    drawn = torch.where(kind > 0.9, blotches, drawn)
    return torch.where(chance(batch, 1 - 0.7 * strength), torch.ones_like(drawn), drawn)


def keep_contrast(rgb: torch.Tensor, alpha: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Inverts a background on which the drawing could not be seen."""
    difference = ((rgb - background).abs().mean(1, keepdim=True) * alpha).sum((2, 3), keepdim=True)
    visible = difference / alpha.sum((2, 3), keepdim=True).clamp_min(1)
    return torch.where(visible < 0.12, 1 - background, background)


def degrade(rgb: torch.Tensor, strength: float) -> torch.Tensor:
    """Blurs or sharpens, then adds noise."""
    batch = rgb.shape[0]
    blurred = F.avg_pool2d(F.pad(rgb, (1, 1, 1, 1), mode="replicate"), 3, 1)
    # Negative amounts sharpen: bicubic resizing does so too.
    rgb = rgb + (blurred - rgb) * uniform(batch, -0.6 * strength, 0.5 * strength)
    noise_level = uniform(batch, 0, 0.06 * strength) * chance(batch, 0.5)
    return rgb + torch.randn_like(rgb) * noise_level
