"""What several files of tests about networks do with them."""

import io

import pytest
import torch


@pytest.fixture
def assert_onnx_agrees():
    """A network and its ``torch.export`` -> whether ONNX Runtime gives its logits of one image and of three.

    Needs the extra ``onnx``, which ``make`` brings and a vehicle does not.
    """
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    def assert_agrees(network, exported, size):
        file = io.BytesIO()
        torch.onnx.export(exported, dynamo=True, verbose=False, optimize=False).save(file)
        threads = runtime.SessionOptions()
        threads.intra_op_num_threads = 1
        session = runtime.InferenceSession(file.getvalue(), threads, providers=["CPUExecutionProvider"])
        for count in (1, 3):
            image = torch.randn(count, 3, *size)
            with torch.no_grad():
                logits = network(image)
            (answer,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
            assert answer.shape == logits.shape
            difference = (torch.from_numpy(answer) - logits).abs() / logits.std()
            # Where two values nearly tie for the maximum, rounding decides where they are un-pooled to.
            assert (difference > 1e-3).float().mean() < 0.05 and difference.mean() < 1e-2

    return assert_agrees
