"""Optical flow between two pictures: by OpenCV, or by any function."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.errors import BadInput

Estimate = Callable[[np.ndarray, np.ndarray], np.ndarray]  # two pictures (H, W, 3), uint8 -> (H, W, 2) pixels


def dense_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Dense inverse search (DIS, arXiv:1603.03590), as OpenCV has it: quick, and without weights."""
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (first, second)]
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    still = np.zeros((*grey[0].shape, 2), dtype=np.float32)
    return np.asarray(estimator.calc(grey[0], grey[1], still))


def flow_between(
    estimate: Estimate, first: Float[Tensor, "3 H W"], second: Float[Tensor, "3 H W"]
) -> Float[Tensor, "H W 2"]:
    """Where every pixel of the first picture (-1..1) went. BadInput if the function gives anything else."""
    pictures = [
        ((pixels.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
        for pixels in (first, second)
    ]
    found = torch.from_numpy(np.array(estimate(*(one.numpy() for one in pictures)), dtype=np.float64))
    shape = (*first.shape[1:], 2)
    if found.shape != shape or not bool(found.isfinite().all()):
        problem = f"a flow function must give finite numbers of shape {shape}, and gave {tuple(found.shape)}"
        raise BadInput(problem, field="reward")
    return found
