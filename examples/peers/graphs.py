"""The graphs that the other runtimes get: the first experts of a network, as ONNX files in float and in int8."""
import os
import sys
import tempfile
import warnings

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "export"))
from ride_model import Block, RideModel  # noqa: E402,F401 (for the scripts beside this one, too)

INPUT = "image"


class Mean(torch.nn.Module):
    """Stem and the first `count` experts; the mean of their logits. For runtimes that cannot route."""

    def __init__(self, model, count):
        super().__init__()
        self.model, self.count = model, count

    def forward(self, x):
        shared = self.model.stem(x)
        return sum(self.model.expert(shared, i)[0] for i in range(self.count)) / self.count


def export(net, image, path):
    """Writes the network for batches of one."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the newer exporter writes the same network
        torch.onnx.export(net.eval(), (image,), path, input_names=[INPUT], output_names=["logits"], opset_version=17, dynamo=False)


def quantize(plain, path, x, activations, **options):
    """QDQ with int8 weights by channel, calibrated on the rows of `x`; `activations` names a QuantType."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rows = iter(x)

        def get_next(self):
            row = next(self.rows, None)
            return None if row is None else {INPUT: row[None]}

    with tempfile.TemporaryDirectory() as folder:
        prepared = os.path.join(folder, "prepared.onnx")
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(prepared, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType[activations], weight_type=QuantType.QInt8, extra_options=options)
