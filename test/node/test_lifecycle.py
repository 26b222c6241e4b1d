"""The life of the node, driven through its real services, and how its process ends."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition

from drive_seg.images.messages import to_image

CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE
SHUTDOWN = Transition.TRANSITION_INACTIVE_SHUTDOWN
MASKS, IMAGES = "/camera/segmentation/label", "/camera/image_raw"


@pytest.fixture(autouse=True)
def no_leftovers(start_node: Any) -> Iterator[None]:
    """No node of a test that failed answers the calls of the next."""
    yield
    start_node.kill_leftovers()


def test_a_whole_life(peer: Any, start_node: Callable[..., Any], picture: Callable[..., np.ndarray]) -> None:
    node = start_node("-p", "autostart:=false")
    assert peer.state() == "unconfigured"
    assert peer.wait_for_values("inactive", state="inactive")["model"] == "n/a"
    assert peer.node.count_publishers(MASKS) == 0

    assert not peer.change_state(ACTIVATE), "impossible from here, and no reason for the process to end"
    assert peer.state() == "unconfigured"

    assert peer.change_state(CONFIGURE)
    assert peer.state() == "inactive"
    masks = peer.listen(MASKS)
    assert peer.node.count_subscribers(IMAGES) == 0, "the node subscribes when it is activated"

    for _ in range(2):
        assert peer.change_state(ACTIVATE)
        assert peer.state() == "active"
        camera = peer.publisher(IMAGES)
        peer.answer(camera, to_image(picture(), peer.header(), "bgr8"), masks)
        assert peer.change_state(DEACTIVATE)
        assert peer.state() == "inactive"
        peer.spin_until(lambda: peer.node.count_subscribers(IMAGES) == 0, "end of the subscription")
        peer.node.destroy_publisher(camera)
    values = peer.wait_for_values("inactive", state="inactive")
    assert values["model"] == "tiny"
    assert int(values["published"]) >= 2, "counters go on over deactivate"

    assert peer.change_state(CLEANUP)
    assert peer.state() == "unconfigured"
    peer.spin_until(lambda: peer.node.count_publishers(MASKS) == 0, "end of the outputs")
    assert peer.set_parameter("input_size", [32, 48]).successful, "the model's parameters may change again"
    assert peer.change_state(CONFIGURE)
    assert peer.wait_for_values("fresh counters", state="inactive")["received"] == "0"

    assert peer.change_state(SHUTDOWN)
    assert peer.state() == "finalized"
    assert node.stop() == 0, node.log
    assert "Traceback" not in node.log


def test_a_model_that_cannot_be_loaded_is_a_failure_one_can_mend(
    peer: Any, start_node: Callable[..., Any], model_file: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(model_file.read_bytes()[:5000])
    node = start_node("-p", "autostart:=false", model=str(cut))
    assert not peer.change_state(CONFIGURE)
    assert peer.state() == "unconfigured"
    assert f"cannot configure: {cut}: not a whole safetensors file" in node.wait_for_log("cannot configure")

    assert peer.set_parameter("model", str(model_file)).successful
    assert peer.change_state(CONFIGURE)
    assert peer.state() == "inactive"
    assert node.stop(signal.SIGTERM) == 0
    assert "Traceback" not in node.log


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["model:=no_such_model"], "no model is called 'no_such_model'"),
        (["device:=cuda:99"], "device 'cuda:99' is not there"),
    ],
)
def test_an_autostart_that_fails_ends_the_process(
    start_node: Callable[..., Any], arguments: list[str], sentence: str
) -> None:
    node = start_node(*(part for argument in arguments for part in ("-p", argument)))
    assert node.wait() == 1
    assert sentence in node.log
    assert "autostart failed" in node.log
    assert "Traceback" not in node.log


def test_an_unknown_parameter_in_a_file_ends_the_process_and_is_named(
    start_node: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "typo.yaml"
    file.write_text("/**:\n  ros__parameters:\n    modle: dsnet_camvid11\n    overlay_alpha: full\n")
    node = start_node("--params-file", str(file))
    assert node.wait() == 1
    assert "parameter 'modle' is unknown: did you mean 'model'?" in node.log
    assert "parameter 'overlay_alpha' must be a double, not the string 'full'" in node.log
    assert "Traceback" not in node.log


def test_a_signal_while_the_model_loads_ends_the_process_in_order(start_node: Callable[..., Any]) -> None:
    node = start_node()
    node.wait_for_log("loading")
    assert node.stop() == 0, node.log
    assert "[ERROR]" not in node.log
    assert "Traceback" not in node.log
    assert "active" not in node.log


def test_a_model_that_takes_long_does_not_keep_the_process(
    start_node: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler.sh"
    compiler.write_text(f'until [ -e "{tmp_path}/go" ]; do sleep 0.05; done; exit 1\n')
    monkeypatch.setenv("CXX", f"sh {compiler}")
    node = start_node("-p", "runtime:=native")
    node.wait_for_log("compiling the kernels")
    assert node.stop(signal.SIGTERM) == 0, node.log
    (tmp_path / "go").touch()
    assert "the model is no longer waited for: the process ends" in node.log
    assert "[ERROR]" not in node.log
    assert "Traceback" not in node.log


def test_a_faster_runtime_is_prepared_beside_the_node_and_takes_over(
    peer: Any,
    start_node: Callable[..., Any],
    picture: Callable[..., np.ndarray],
    kernels_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = tmp_path / "compiler.sh"
    compiler.write_text(
        f'until [ -e "{tmp_path}/go" ]; do sleep 0.05; done; for out in "$@"; do :; done; cp "{kernels_file}" "$out"\n'
    )
    monkeypatch.setenv("CXX", f"sh {compiler}")
    monkeypatch.delenv("DRIVE_SEG_PREPARE")
    node = start_node()
    node.wait_for_log("active: awaiting")
    masks, camera = peer.listen(MASKS), peer.publisher(IMAGES)
    peer.answer(camera, to_image(picture(), peer.header(), "bgr8"), masks)
    values = peer.wait_for_values("PyTorch meanwhile", runtime="torch")
    assert values["model_change"].startswith("preparing native for ") and "torch labels meanwhile" in node.log
    (tmp_path / "go").touch()
    assert peer.wait_for_values("the kernels", runtime="native", model_change="none")["model"] == "tiny"
    node.wait_for_log("in fp32 by native took over from ")
    peer.answer(camera, to_image(picture(), peer.header(), "bgr8"), masks)
    assert node.stop() == 0, node.log
    monkeypatch.setenv("CXX", "false")
    node = start_node()
    node.wait_for_log("in fp32 by native")
    assert node.stop() == 0, node.log
    assert "preparing" not in node.log


def test_transitions_during_a_load(
    peer: Any,
    start_node: Callable[..., Any],
    picture: Callable[..., np.ndarray],
    model_file: Path,
    tmp_path: Path,
) -> None:
    other_file = tmp_path / "other.safetensors"
    shutil.copy(model_file, other_file)
    node = start_node()
    node.wait_for_log("active: awaiting")
    assert peer.set_parameter("model", str(other_file)).successful
    assert peer.change_state(DEACTIVATE)
    peer.wait_for_values("other model while inactive", state="inactive", model="other")
    assert peer.set_parameter("model", str(model_file)).successful
    assert peer.change_state(CLEANUP), "the load is let go"
    assert peer.wait_for_values("no model", state="inactive")["model"] == "n/a"
    assert peer.change_state(CONFIGURE)
    assert peer.change_state(ACTIVATE)
    assert peer.wait_for_values("what was asked for", model="tiny")["model_change"] == "none"
    masks, camera = peer.listen(MASKS), peer.publisher(IMAGES)
    peer.answer(camera, to_image(picture(), peer.header(), "bgr8"), masks)
    assert peer.set_parameter("model", str(other_file)).successful
    assert node.stop(signal.SIGTERM) == 0, node.log
    assert "Traceback" not in node.log
    assert "[ERROR]" not in node.log
