"""From a prompt to the text embedding that Stable Diffusion 2 listens to.

Prompts without stored token ids need the `tokenizer` folder of a diffusers copy. Knows no image network.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.models.diffusion.stored_prompts import KNOWN_IDS

LENGTH, START, END, PAD = 77, 49406, 49407, 0


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
    vocabulary = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    return tuple(vocabulary(text, add_special_tokens=False).input_ids)
