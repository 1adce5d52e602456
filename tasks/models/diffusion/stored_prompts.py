"""The prompts of the published recipes with their token ids, so that no vocabulary has to be at hand for them.

Imports nothing, so that a recipe's prompts can be checked without torch.
"""

from __future__ import annotations

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
ALLFORFACE_NEGATIVE = f"{DIFFBIR_V2_NEGATIVE}, artifacts"
HH_POSITIVE = "Good image, Sharp image, sharp edges, High resolution image, Noise-free image"
HH_NEGATIVE = "bad image, blurry image, blurry edges, low resolution image, noisy image"

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
    ALLFORFACE_NEGATIVE: (*_V2_NEGATIVE_IDS, 267, 30249),
    HH_POSITIVE: (
        886, 2867, 267, 8157, 2867, 267, 8157, 20938, 267, 1400, 9977, 2867, 267, 9307, 268, 1139, 2867,
    ),
    HH_NEGATIVE: (
        2103, 2867, 267, 21977, 2867, 267, 21977, 20938, 267, 1042, 9977, 2867, 267, 33495, 2867,
    ),
    MPSR_NEGATIVE: (*_V2_NEGATIVE_IDS, 267, 620, 539, 4353),
}
# fmt: on
