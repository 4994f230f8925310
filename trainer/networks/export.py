"""Writes a built network for ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.extras import how_to_install
from trainer.networks.forward import activate
from trainer.networks.network_module import NetworkModule
from trainer.networks.spec import Activation

INPUT_NAME = "image"
OUTPUT_NAME = "output"


class _Activated(nn.Module):
    def __init__(self, network: NetworkModule, activation: Activation) -> None:
        super().__init__()
        self.network = network
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return activate(self.network.logits(x), self.activation)


def export_onnx(
    module: NetworkModule,
    input_shape: tuple[int, ...],
    path: Path,
    activation: Activation | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the network with its last activation as ONNX, for any batch size.

    `metadata` is what ONNX Runtime gives by `session.get_modelmeta().custom_metadata_map`.

    Input and output are channels-first, (N, C, H, W), as everywhere in the engine;
    `input_shape` is (H, W, C); `activation` is what the network itself does not end with. Needs
    the packages `onnx` and `onnxscript`.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{path}: writing ONNX needs the package {error.name}; try {how_to_install('onnx')}"
        ) from None
    parameter = next(module.parameters(), None)
    device = "cpu" if parameter is None else parameter.device
    # two images: a batch of one would be taken for a constant
    image = torch.zeros(2, input_shape[-1], *input_shape[:-1], device=device)
    training = module.training
    # The exporter's own notes, such as on packages that it could use: of no use to its caller.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module if activation is None else _Activated(module, activation),
                (image,),
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True,
                verbose=False,
            )
            assert program is not None  # by the newer exporter
            program.model.metadata_props.update(metadata or {})
            program.save(path, external_data=False)  # one file, up to ONNX's 2 GB
    finally:
        module.train(training)
