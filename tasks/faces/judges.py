"""Judges of identity that are recognition networks: AdaFace, or any ONNX network that one has added."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.stage import Pixels

ADAFACE = "adaface_ir50_ms1mv2"
ONNX = "face_embedding_onnx"


class Judge(Protocol):
    """Turns recognition crops (N, 112, 112, 3), RGB in [0, 1], into unit vectors (N, D)."""

    def __call__(self, crops: Pixels) -> NDArray[np.float32]: ...


def adaface_judge(path: Path, device: str) -> Judge:
    """AdaFace IR-50 (Kim et al., CVPR 2022)."""
    import torch

    from infra.weights import fitting, load_state_dict
    from tasks.models.faces.adaface import AdaFace, embed, network_weights
    from tasks.models.tensors import to_tensor

    network = AdaFace("ir_50")
    with fitting(path, expect="AdaFace IR-50"):
        network.load_state_dict(network_weights(load_state_dict(path, expect="AdaFace IR-50")))
    network.to(device).eval()

    def judge(crops: Pixels) -> NDArray[np.float32]:
        with torch.inference_mode():
            features, _ = embed(network, to_tensor(crops, device))
        vectors: NDArray[np.float32] = features.float().cpu().numpy()
        return vectors

    return judge


def onnx_judge(path: Path) -> Judge:
    """A recognition network in ONNX form that takes RGB (N, 3, 112, 112) with ImageNet's mean and deviation."""
    import cv2

    network = cv2.dnn.readNetFromONNX(str(path))
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    deviation = np.array([0.229, 0.224, 0.225], np.float32)

    def judge(crops: Pixels) -> NDArray[np.float32]:
        inputs = ((crops - mean) / deviation).transpose(0, 3, 1, 2)
        vectors = np.stack([one(planes) for planes in inputs])  # exported networks often take one face at a time
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def one(planes: NDArray[np.float32]) -> NDArray[np.float32]:
        network.setInput(np.ascontiguousarray(planes[None], np.float32))
        vector: NDArray[np.float32] = network.forward()[0]
        return vector

    return judge


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """How alike two vectors (D,) point, -1 to 1."""
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))
