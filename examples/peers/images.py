"""Images for the comparisons: out of CIFAR-100's files, and normalised as in training. Needs NumPy alone."""
import os
import sys

import numpy as np

# Mean and standard deviation of each channel, for pixels in 0..1.
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RECORD = 2 + 3 * 32 * 32  # coarse label, fine label, three planes


def cifar100(path):
    """All images of a CIFAR-100 binary file: u8, N x 32 x 32 x 3."""
    size = os.path.getsize(path)
    if size == 0 or size % RECORD:
        sys.exit(f"error: {path} is no CIFAR-100 binary file: its {size} bytes are no multiple of {RECORD}")
    return np.fromfile(path, np.uint8).reshape(-1, RECORD)[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def normalised(images, statistics, dtype=np.float32):
    """u8 N x H x W x 3 as N x 3 x H x W; the statistics are those of single precision in any case."""
    mean, std = (np.array(v, np.float32) for v in statistics)
    return np.ascontiguousarray(((images.astype(dtype) / 255 - mean) / std).transpose(0, 3, 1, 2))
