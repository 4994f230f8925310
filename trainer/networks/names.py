"""Names of layers as Keras makes them."""

from __future__ import annotations

import re


def snake_case(class_name: str) -> str:
    """Return Keras's default name of a layer class: Conv2DTranspose -> conv2d_transpose."""
    name = re.sub(r"\W+", "", class_name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def numbered(base: str, number: int) -> str:
    """Return the name of the n-th (from 0) layer of a class: conv2d, conv2d_1, …"""
    return f"{base}_{number}" if number else base
