"""From a prompt to the text embedding that Stable Diffusion 2 listens to.

The prompts of the published recipes carry their token ids, so that no vocabulary has to be at hand for them; any
other prompt needs the `tokenizer` folder of a diffusers copy. Knows no image network.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LENGTH, START, END, PAD = 77, 49406, 49407, 0

EMPTY = ""
DIFFBIR_POSITIVE = (
    "Cinematic, High Contrast, highly detailed, taken using a Canon EOS R camera, hyper detailed photo - realistic "
    "maximum detail, 32k, Color Grading, ultra HD, extreme meticulous detailing, skin pore detailing, hyper "
    "sharpness, perfect without deformations."
)
DIFFBIR_NEGATIVE = (
    "painting, oil painting, illustration, drawing, art, sketch, oil painting, cartoon, CG Style, 3D render, unreal "
    "engine, blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, "
    "deformed, lowres, over-smooth."
)
DIFFBIR_V2_NEGATIVE = "low quality, blurry, low-resolution, noisy, unsharp, weird textures"
MPSR_NEGATIVE = "low quality, blurry, low-resolution, noisy, unsharp, weird textures, out of focus"

# fmt: off
_V2_NEGATIVE_IDS = (
    1042, 3027, 267, 21977, 267, 1042, 268, 9977, 267, 33495, 267, 569, 8157, 267, 5613, 28063,
)
KNOWN_IDS: dict[str, tuple[int, ...]] = {
    EMPTY: (),
    DIFFBIR_POSITIVE: (
        25602, 267, 1400, 18501, 267, 5302, 12609, 267, 2807, 1996, 320, 9310, 17805, 337, 3934, 267, 22146, 12609,
        1125, 268, 16157, 13162, 7657, 267, 274, 273, 330, 267, 3140, 19016, 267, 8118, 4414, 267, 8331, 613, 890,
        4281, 23163, 267, 3575, 28267, 23163, 267, 22146, 17126, 1294, 267, 1878, 2193, 561, 37715, 269,
    ),
    DIFFBIR_NEGATIVE: (
        3086, 267, 2870, 3086, 267, 6052, 267, 3610, 267, 794, 267, 5269, 267, 2870, 3086, 267, 7651, 267, 14740,
        1844, 267, 274, 323, 13024, 267, 15636, 5857, 267, 12102, 2540, 267, 7615, 267, 15987, 267, 5719, 3027, 267,
        1042, 3027, 267, 15479, 267, 2505, 2110, 267, 9189, 267, 73, 11207, 30249, 267, 561, 6528, 267, 1049, 934,
        267, 962, 268, 8990, 269,
    ),
    DIFFBIR_V2_NEGATIVE: _V2_NEGATIVE_IDS,
    MPSR_NEGATIVE: (*_V2_NEGATIVE_IDS, 267, 620, 539, 4353),
}
# fmt: on


def token_ids(prompt: str, tokenizer: Path | None = None) -> Tensor:
    """Token ids of a prompt, (77,) int64: start, words, end, padded with 0.

    Raises ValueError for a prompt that is not stored when no `tokenizer` folder (vocab.json, merges.txt) is given.
    """
    ids = KNOWN_IDS.get(prompt)
    if ids is None:
        ids = _tokenise(prompt, tokenizer)
    kept = [START, *ids[: LENGTH - 2], END]
    return torch.tensor(kept + [PAD] * (LENGTH - len(kept)))


def embed(text_encoder: Any, prompts: Sequence[str], tokenizer: Path | None = None) -> Tensor:
    """What the networks are conditioned on: the text encoder's normalised last hidden state, (N, 77, D)."""
    ids = torch.stack([token_ids(prompt, tokenizer) for prompt in prompts])
    with torch.inference_mode():
        hidden: Tensor = text_encoder(ids.to(text_encoder.device)).last_hidden_state
    return hidden.clone()


def _tokenise(prompt: str, tokenizer: Path | None) -> tuple[int, ...]:
    if tokenizer is None:
        raise ValueError(
            f"no token ids are stored for the prompt {prompt!r}: give the folder `tokenizer` of a diffusers copy of "
            f"Stable Diffusion 2.1, or use one of the {len(KNOWN_IDS)} stored prompts"
        )
    from transformers import CLIPTokenizer

    # OpenCLIP, which the network was trained with, undoes HTML escapes first.
    text = html.unescape(html.unescape(prompt))
    words = CLIPTokenizer.from_pretrained(tokenizer)(text, add_special_tokens=False).input_ids
    return tuple(words)
