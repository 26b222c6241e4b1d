#!/bin/bash
# The same weights, the same image, feature maps of another size: efficientnet-lite-pytorch pads for the image size that the network
# was constructed with, by default that of its ImageNet classifier, and not for the image that it is given.
#
# Versions: efficientnet-lite-pytorch 0.1.0, torch 2.13.0 (CPU, CPython 3.11).
# Seen: EfficientNet-Lite0 as from_name() makes it (224x224) gives a 640x360 image features of 11x20; constructed with
#   image_size=(360, 640) it gives 12x20, as TensorFlow's "SAME" padding does, ceil(360 / 32). No warning. At 640x384, whose sides
#   are multiples of 32, both agree.
# Source: efficientnet_lite_pytorch/utils.py, Conv2dStaticSamePadding; seen by running this, 2026-12-01.
# Why it matters: as the encoder of a segmentation network it drops the lowest rows of a 640x360 camera image, the road in front of
#   the bonnet, and a decoder that expects ceil(side / stride) does not fit. Pass image_size, or keep to multiples of 32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 efficientnet-lite-pytorch==0.1.0
"$folder/venv/bin/python" - <<'PY'
import torch
from efficientnet_lite_pytorch import EfficientNet

torch.manual_seed(0)
plain = EfficientNet.from_name("efficientnet-lite0").eval()
shapes = {}
for height in (360, 384):
    fitting = EfficientNet.from_name("efficientnet-lite0", image_size=(height, 640)).eval()
    fitting.load_state_dict(plain.state_dict())
    image = torch.rand(1, 3, height, 640)
    with torch.no_grad():
        own, wanted = plain.extract_features(image), fitting.extract_features(image)
    shapes[height] = tuple(own.shape[-2:]), tuple(wanted.shape[-2:])
    print(f"640x{height}: constructed for 224x224 {shapes[height][0]}, for this size {shapes[height][1]} (height, width)")
    if own.shape == wanted.shape:
        print("  largest difference", float((own - wanted).abs().max()))
assert shapes == {360: ((11, 20), (12, 20)), 384: ((12, 20), (12, 20))}, shapes
assert own.equal(wanted)
PY
