"""CodeFormer: a face is rebuilt from a book of learnt codes, and held to the input as far as one asks for it.

Zhou et al., "Towards Robust Blind Face Restoration with Codebook Lookup Transformer" (NeurIPS 2022), repository
sczhou/CodeFormer. Written from the layout of the published checkpoint; parameter names are its own. The module knows
nothing of files, faces in pictures or devices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, pad, scaled_dot_product_attention, silu

SIDE = 512
MULTIPLES = (1, 2, 2, 4, 4, 8)
"""Width of each resolution, from 512 pixels down to 16, in units of the first."""
FUSED = (4, 3, 2, 1)
"""Resolutions (indices of MULTIPLES) at which the input's features may enter, in the order of the generator."""
HEADS = 8
EPSILON = 1e-5
GREY = 10.0
"""A picture is grey whose differences of channels vary by no more than this: levels of 255, squared."""


@dataclass(frozen=True)
class CodeFormerSizes:
    """What a checkpoint says of its network; the defaults are those of the release (94.1 million parameters)."""

    width: int = 64
    codes: int = 1024
    code_width: int = 256
    embedding: int = 512
    layers: int = 9
    tokens: int = (SIDE // 32) ** 2

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> CodeFormerSizes:
        """Read off the weights. Raises KeyError naming the first of CodeFormer's keys that is missing."""
        codes, code_width = weights["quantize.embedding.weight"].shape
        tokens, embedding = weights["position_emb"].shape
        layers = {key.split(".")[1] for key in weights if key.startswith("ft_layers.")}
        width = weights["encoder.blocks.0.weight"].shape[0]
        return cls(width, codes, code_width, embedding, len(layers), tokens)


class ResBlock(nn.Module):
    """Two normalised convolutions around a skip connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), _conv3(inputs, outputs)
        self.norm2, self.conv2 = _norm(outputs), _conv3(outputs, outputs)
        self.conv_out = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))
        skipped: Tensor = self.conv_out(x)
        return features + skipped


class Attention(nn.Module):
    """Every position looks at every other, with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        query, key, value = (each(normed).flatten(2).mT[:, None] for each in (self.q, self.k, self.v))
        attended = scaled_dot_product_attention(query, key, value)[:, 0].mT.reshape(x.shape)
        projected: Tensor = self.proj_out(attended)
        return x + projected


class Halved(nn.Module):
    """Half the size; zeros are added to the right and below only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        smaller: Tensor = self.conv(pad(x, (0, 1, 0, 1)))
        return smaller


class Doubled(nn.Module):
    """Twice the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        larger: Tensor = self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))
        return larger


class Chain(nn.Module):
    """Blocks one after the other; the encoder and the generator are such chains."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class TransformerLayer(nn.Module):
    """Self-attention over the positions of a face, then two linear layers; both normalise first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        normed = self.norm1(x)
        placed = normed + positions
        x = x + self.self_attn(placed, placed, normed, need_weights=False)[0]
        widened: Tensor = self.linear2(gelu(self.linear1(self.norm2(x))))
        return x + widened


class Fusion(nn.Module):
    """Moves the generator's features towards the input's, by a share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encode_enc = ResBlock(2 * width, width)
        self.scale, self.shift = (_two_convolutions(width) for _ in range(2))

    def forward(self, encoded: Tensor, decoded: Tensor, share: float) -> Tensor:
        both = self.encode_enc(torch.cat([encoded, decoded], dim=1))
        moved: Tensor = share * (decoded * self.scale(both) + self.shift(both))
        return decoded + moved


class CodeFormer(nn.Module):
    """Maps RGB (N, 3, 512, 512) in [-1, 1] to the same, not clamped."""

    def __init__(self, sizes: CodeFormerSizes | None = None) -> None:
        super().__init__()
        sizes = sizes or CodeFormerSizes()
        widths = [sizes.width * multiple for multiple in MULTIPLES]
        self.position_emb = nn.Parameter(torch.zeros(sizes.tokens, sizes.embedding))
        self.feat_emb = nn.Linear(sizes.code_width, sizes.embedding)
        self.ft_layers = nn.ModuleList(TransformerLayer(sizes.embedding) for _ in range(sizes.layers))
        self.idx_pred_layer = nn.Sequential(
            nn.LayerNorm(sizes.embedding), nn.Linear(sizes.embedding, sizes.codes, bias=False)
        )
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(sizes.codes, sizes.code_width)})
        self.encoder = Chain(_encoder(widths, sizes.code_width))
        self.generator = Chain(_generator(widths, sizes.code_width))
        self.fuse_convs_dict = nn.ModuleDict({str(SIDE >> level): Fusion(widths[level]) for level in FUSED})

    def forward(self, x: Tensor, fidelity: float, *, adain: bool = True) -> Tensor:
        """`fidelity` 0 paints from the codes alone, 1 holds closest to the input; `adain` gives the codes' features
        the statistics of the input's."""
        encoded, kept = self.encode(x)
        looked_up = self.look_up(self.codes(encoded))
        return self.generate(adain_of(looked_up, encoded) if adain else looked_up, kept, fidelity)

    def encode(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Features (N, C, 16, 16), and those of the resolutions in FUSED on the way to them."""
        kept, level = dict[int, Tensor](), 0
        for block in self.encoder.blocks:
            if isinstance(block, Halved):
                kept[level] = x
                level += 1
            x = block(x)
        return x, kept

    def codes(self, encoded: Tensor) -> Tensor:
        """The likeliest code of every position, (N, 256)."""
        return self.logits(encoded).argmax(dim=2)

    def logits(self, encoded: Tensor) -> Tensor:
        """How much speaks for each code at each position, (N, 256, codes)."""
        tokens = self.feat_emb(encoded.flatten(2).mT)
        for layer in self.ft_layers:
            tokens = layer(tokens, self.position_emb)
        speaking: Tensor = self.idx_pred_layer(tokens)
        return speaking

    def look_up(self, codes: Tensor) -> Tensor:
        """The codes' own features, (N, C, 16, 16)."""
        rows: Tensor = self.quantize["embedding"](codes)
        side = math.isqrt(codes.shape[1])
        return rows.mT.reshape(len(codes), -1, side, side)

    def generate(self, features: Tensor, kept: Mapping[int, Tensor], fidelity: float) -> Tensor:
        """A picture of features; `kept` are the input's, which enter after the first block of a resolution."""
        level = len(MULTIPLES) - 1
        blocks = list(self.generator.blocks)
        features = blocks[0](features)
        for before, block in pairwise(blocks):
            features = block(features)
            if isinstance(before, Doubled):
                level -= 1
                if level in FUSED and fidelity > 0:
                    features = self.fuse_convs_dict[str(SIDE >> level)](kept[level], features, fidelity)
        return features


def build_codeformer(weights: Mapping[str, Tensor]) -> CodeFormer:
    """The network in evaluation mode, filled from the `params_ema` of a release (515 tensors at full size).

    Raises KeyError or RuntimeError where the weights are another network's.
    """
    with torch.device("meta"):
        network = CodeFormer(CodeFormerSizes.of(weights))
    network.load_state_dict(dict(weights), strict=True, assign=True)
    return network.float().eval()


def restore(network: CodeFormer, rgb: Tensor, fidelity: float, *, adain: bool = True) -> Tensor:
    """Restores RGB faces (N, 3, 512, 512) in [0, 1]; the result is rounded to 8 bits, as in the authors' code.

    A grey face stays grey: the network, which has learnt colours, would paint it.
    """
    restored = levels(network(rgb * 2 - 1, fidelity, adain=adain) * 0.5 + 0.5)
    given = levels(rgb)
    grey = is_grey(given)[:, None, None, None]
    return torch.where(grey, greyed(restored, given).round().clamp(0, 255), restored).to(rgb.dtype) / 255


def levels(rgb: Tensor) -> Tensor:
    """RGB in [0, 1] to whole levels 0–255, rounding, in float64."""
    return (rgb.double().clamp(0, 1) * 255).round()


def is_grey(given: Tensor) -> Tensor:
    """Which pictures (N, 3, H, W) of levels have three channels that hardly differ, (N,)."""
    differences = (given - given.roll(-1, dims=1)).flatten(2)
    return differences.var(dim=2, correction=0).mean(dim=1) <= GREY


def greyed(restored: Tensor, given: Tensor) -> Tensor:
    """The luma of `restored` with each channel's mean and deviation of `given`; levels, neither clamped nor rounded."""
    luma = (restored * restored.new_tensor([0.2989, 0.5870, 0.1140]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    return adain_of(luma.expand_as(restored), given, correction=0)


def adain_of(content: Tensor, style: Tensor, correction: int = 1) -> Tensor:
    """`content` (N, C, H, W) with each channel's mean and deviation of `style`."""
    (mean, deviation), (wanted_mean, wanted) = (_statistics(each, correction) for each in (content, style))
    return (content - mean) / deviation * wanted + wanted_mean


def _statistics(x: Tensor, correction: int) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=correction, keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def _encoder(widths: list[int], code_width: int) -> list[nn.Module]:
    blocks: list[nn.Module] = [_conv3(3, widths[0])]
    previous = widths[0]
    for level, width in enumerate(widths):
        blocks += _resolution(previous, width, attends=level == len(widths) - 1)
        if level < len(widths) - 1:
            blocks.append(Halved(width))
        previous = width
    return [*blocks, *_middle(previous), _norm(previous), _conv3(previous, code_width)]


def _generator(widths: list[int], code_width: int) -> list[nn.Module]:
    previous = widths[-1]
    blocks: list[nn.Module] = [_conv3(code_width, previous), *_middle(previous)]
    for level, width in reversed(list(enumerate(widths))):
        blocks += _resolution(previous, width, attends=level == len(widths) - 1)
        if level > 0:
            blocks.append(Doubled(width))
        previous = width
    return [*blocks, _norm(previous), _conv3(previous, 3)]


def _resolution(inputs: int, width: int, *, attends: bool) -> list[nn.Module]:
    blocks = [ResBlock(inputs, width), ResBlock(width, width)]
    return [each for block in blocks for each in (block, Attention(width))] if attends else [*blocks]


def _middle(width: int) -> list[nn.Module]:
    return [ResBlock(width, width), Attention(width), ResBlock(width, width)]


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


def _conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


def _two_convolutions(width: int) -> nn.Sequential:
    return nn.Sequential(_conv3(width, width), nn.LeakyReLU(0.2), _conv3(width, width))
