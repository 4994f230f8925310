"""Images with masks for benchmarks: writes them, and reads them as a plain program would."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


def write_images(root: Path, num_images: int, size: int, *, part: str = "train") -> Path:
    """Write smooth noise as JPEG, twice as large as the network's input, and discs as masks."""
    side = 2 * size
    rows, columns = np.mgrid[:side, :side]
    for kind in ("inputs", "targets"):
        (root / part / kind).mkdir(parents=True)

    def write(index: int) -> None:
        rng = np.random.default_rng([len(part), index])
        y, x, radius = rng.uniform((0.3, 0.3, 0.1), (0.7, 0.7, 0.3)) * side
        mask = ((rows - y) ** 2 + (columns - x) ** 2 < radius**2).astype(np.uint8) * 255
        noise = cv2.resize(rng.integers(0, 120, (side // 8, side // 8, 3), np.uint8), (side, side))
        cv2.imwrite(str(root / part / f"inputs/{index:03d}.jpg"), noise + (mask // 3)[:, :, None])
        cv2.imwrite(str(root / part / f"targets/{index:03d}.png"), mask)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(num_images)))
    return root


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Decodes and resizes an image and its mask for each item: (3, H, W) in [0, 1], (H, W)."""

    def __init__(self, folder: Path, size: int, part: str = "train") -> None:
        self._inputs = sorted((folder / part / "inputs").iterdir())
        self._targets = sorted((folder / part / "targets").iterdir())
        self._size = (size, size)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = cv2.resize(cv2.imread(str(self._inputs[index])), self._size)
        mask = cv2.imread(str(self._targets[index]), cv2.IMREAD_GRAYSCALE)
        mask = cv2.resize(mask, self._size, interpolation=cv2.INTER_NEAREST)
        inputs = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        return inputs, torch.from_numpy((mask > 127).astype(np.int64))

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return all of them there, images channels-last in memory."""
        with ThreadPoolExecutor() as pool:
            pairs = list(pool.map(self.__getitem__, range(len(self))))
        inputs, targets = zip(*pairs, strict=True)
        images_NCHW = torch.stack(inputs).contiguous(memory_format=torch.channels_last)
        return images_NCHW.to(device), torch.stack(targets).to(device)
