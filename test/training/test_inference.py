"""What evaluation averages, against the Segmenter and against slow sums."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from drive_seg.checkpoint import Contract, InputSpec
from drive_seg.inference.runtimes import Runtime
from drive_seg.labels import CAMVID11
from drive_seg.segmenter import Segmenter
from drive_seg.training.inference import Inference, Labeller

CLASSES = CAMVID11.num_classes


class Blur(nn.Module):
    """Looks a little around each pixel, and at the whole input's mean."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.near = nn.Conv2d(3, CLASSES, (5, 3), padding=(2, 1))
        self.far = nn.Linear(3, CLASSES)

    def forward(self, x):
        return 3 * self.near(x) + self.far(x.mean((2, 3)))[:, :, None, None]


def segmenter(network=None, size=(32, 48)):
    return Segmenter(network or Blur(), Contract("", {}, CAMVID11, InputSpec(size)), device="cpu")


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def softmax(network, pixels):
    with torch.inference_mode():
        return network(pixels).softmax(1)


@pytest.mark.parametrize("size", [(32, 48), (41, 67), (9, 20)])
def test_by_itself_it_is_the_segmenter(size):
    image, own = picture(*size), segmenter()
    np.testing.assert_array_equal(Labeller(own, Inference())(image), own(image).label)


def test_flip_makes_the_answer_symmetric():
    image, own = picture(32, 48), segmenter()
    both, one = Labeller(own, Inference(flip=True)), Labeller(own, Inference(scales=(0.5,)))
    mirrored = np.ascontiguousarray(image[:, ::-1])
    torch.testing.assert_close(both.probabilities(image), both.probabilities(mirrored).flip(-1))
    assert (one.probabilities(image) - one.probabilities(mirrored).flip(-1)).abs().max() > 0.05
    assert (both(image) == both.probabilities(image).argmax(0).numpy()).all()


def test_scales_are_averaged_at_the_images_size():
    network = Blur()
    image, spec = picture(30, 50), InputSpec((32, 48))
    labeller = Labeller(segmenter(network), Inference(scales=(0.5, 1.0, 1.5)))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    total = torch.zeros(1, CLASSES, 30, 50)
    # 30 x 50 is seen as 32 x 48; halves of these, and one and a half times
    for size in ((16, 24), (32, 48), (48, 72)):
        scaled = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        total += F.interpolate(softmax(network, spec.normalise(scaled)), (30, 50), mode="bilinear") / 3
    torch.testing.assert_close(labeller.probabilities(image), total[0])


@pytest.mark.parametrize(
    ("size", "tops", "lefts"),
    [
        ((48, 72), [0, 16, 24], [0, 22, 40]),  # windows of 24 x 32 with steps of 16 and 22
        ((24, 32), [0], [0]),
        ((16, 72), [0], [0, 22, 40]),  # lower than the window
        ((16, 24), [0], [0]),
    ],
)
def test_windows_are_averaged_where_they_overlap(size, tops, lefts):
    network, image = Blur(), picture(*size)
    own = Segmenter(network, Contract("", {}, CAMVID11, InputSpec(size)), device="cpu")
    labeller = Labeller(own, Inference(window=(24, 32), stride=2 / 3))
    seen = InputSpec(size).normalise(torch.from_numpy(image).permute(2, 0, 1)[None])
    padded = torch.zeros(1, 3, max(size[0], 24), max(size[1], 32))
    padded[..., : size[0], : size[1]] = seen
    answers = {(y, x): softmax(network, padded[..., y : y + 24, x : x + 32])[0] for y in tops for x in lefts}
    expected = torch.zeros(CLASSES, *size)
    for y in range(size[0]):
        for x in range(size[1]):
            here = [p[:, y - v, x - u] for (v, u), p in answers.items() if v <= y < v + 24 and u <= x < u + 32]
            expected[:, y, x] = torch.stack(here).mean(0)
    torch.testing.assert_close(labeller.probabilities(image), expected)


def test_one_window_as_large_as_the_image_is_the_whole_image():
    image, own = picture(32, 48), segmenter()
    np.testing.assert_array_equal(Labeller(own, Inference(window=(32, 48)))(image), own(image).label)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"scales": ()}, "one or more numbers above 0"),
        ({"scales": (1.0, -0.5)}, "one or more numbers above 0"),
        ({"window": (30, 32)}, "multiples of 8"),
        ({"window": (0, 32)}, "multiples of 8"),
        ({"stride": 0.0}, "above 0 and at most 1"),
        ({"stride": 1.5}, "above 0 and at most 1"),
    ],
)
def test_senseless_values_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Inference(**settings)


class Fixed(Runtime):
    """A runtime that takes inputs of 32 x 48 alone, or one that gives ids."""

    name = "fixed"
    device = tensor_device = "cpu"
    precision, dtype = "fp32", torch.float32
    fixed_size = (32, 48)

    def __init__(self, network=None):
        self.network, self.gives_logits = network, network is not None

    def __call__(self, batch):
        assert batch.shape[2:] == (32, 48)
        return self.network(batch)


def test_a_model_of_one_input_size_sees_larger_scales_window_by_window():
    network, image = Blur(), picture(32, 48)
    fixed, free = segmenter(Fixed(network)), segmenter(network)
    for settings, same in (
        ({"flip": True}, {"flip": True}),
        ({"scales": (1.0, 1.5)}, {"scales": (1.0, 1.5), "window": (32, 48)}),
    ):
        own, expected = (Labeller(s, Inference(**i)) for s, i in ((fixed, settings), (free, same)))
        torch.testing.assert_close(own.probabilities(image), expected.probabilities(image))


@pytest.mark.parametrize(
    ("runtime", "settings", "complaint"),
    [
        (Fixed(), {"flip": True}, "no probabilities"),
        (Fixed(Blur()), {"scales": (0.5, 1.0)}, "fixes its input to 48x32: scales are 1 or more"),
        (Fixed(Blur()), {"window": (32, 32)}, "windows of that size"),
    ],
)
def test_models_that_cannot_be_averaged_are_refused(runtime, settings, complaint):
    own = segmenter(runtime)
    with pytest.raises(ValueError, match=complaint):
        Labeller(own, Inference(**settings))
    Labeller(own, Inference())
