"""Prints what Pillow makes of the pictures in compiler/src/train/augment.rs's tests, as hashes.

    python tests/data/train/augment.py      # needs pillow 11 and numpy
"""
import numpy as np
from PIL import Image, ImageEnhance


def noise(count):
    state, out = 12345, bytearray()
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        out.append(state >> 24)
    return np.frombuffer(bytes(out), np.uint8)


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return f"0x{value:016x}"


def picture(height, width):
    return Image.fromarray(noise(height * width * 3).reshape(height, width, 3))


for height, width, angle in [(32, 32, 7.25), (32, 32, -15.0), (31, 40, 14.9), (1, 5, 3.0), (64, 48, -0.4)]:
    rotated = picture(height, width).rotate(angle, Image.NEAREST, fillcolor=0)
    print("rotate", height, width, angle, fnv(rotated.tobytes()))
for name, enhance in [("Brightness", ImageEnhance.Brightness), ("Contrast", ImageEnhance.Contrast), ("Color", ImageEnhance.Color)]:
    for factor in [0.6, 0.87, 1.0, 1.25, 1.4]:
        print(name, factor, fnv(enhance(picture(29, 37)).enhance(factor).tobytes()))
