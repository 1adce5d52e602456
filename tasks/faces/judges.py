"""Judges of identity that are recognition networks: AdaFace, or any ONNX network that one has added."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.stage import Pixels

ADAFACE = "adaface_ir50_ms1mv2"
ONNX = "face_embedding_onnx"
RECOGNITION_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""Where the five points of an upright face lie in a recognition crop (ArcFace's and AdaFace's reference points)."""
FFHQ_POINTS = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ],
    np.float32,
)
"""Where they lie in the 512-pixel aligned face (the template of facexlib)."""


class Judge(Protocol):
    """Turns recognition crops (N, 112, 112, 3), RGB in [0, 1], into unit vectors (N, D)."""

    def __call__(self, crops: Pixels) -> NDArray[np.float32]: ...


def recognition_crop(aligned: Pixels) -> Pixels:
    """The 112-pixel crop of a 512-pixel aligned face that recognition networks expect; (112, 112, 3) float32."""
    import cv2

    from tasks.faces.geometry import RECOGNITION_SIDE

    matrix, _ = cv2.estimateAffinePartial2D(FFHQ_POINTS, RECOGNITION_POINTS, method=cv2.LMEDS)
    smoothed = cv2.GaussianBlur(aligned, (0, 0), 1.4)  # 512 → 112 is a reduction by 3.6; without it edges alias
    crop: Pixels = cv2.warpAffine(smoothed, matrix, (RECOGNITION_SIDE, RECOGNITION_SIDE), flags=cv2.INTER_LINEAR)
    return crop.clip(0.0, 1.0)


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
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))
