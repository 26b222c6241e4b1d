"""Where cameras are mounted, from TF; without tf2_ros there is none."""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time
from std_msgs.msg import Header

from drive_seg.geometry.ground import Mounting


class TransformError(LookupError):
    """TF does not say where a frame is; the message is one sentence."""


class Transforms:
    """Listens to TF while anybody needs it. ``look_up`` may be called from any thread, the rest by the executor's."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._needed_by: set[str] = set()
        self._buffer = self._listener = None

    def need(self, camera: str, needed: bool) -> None:
        """Say whether a camera needs transforms."""
        (self._needed_by.add if needed else self._needed_by.discard)(camera)
        if self._needed_by and self._buffer is None:
            self._begin()
        elif not self._needed_by and self._listener is not None:
            self._listener.unregister()
            self._buffer = self._listener = None

    def look_up(self, vehicle_frame: str, header: Header) -> Mounting:
        """The mounting of the camera of an image, at the image's stamp.

        Raises:
            TransformError: if TF does not know it, or is not installed.
            GroundError: if the transform is no transform.
        """
        buffer = self._buffer
        if buffer is None:
            raise TransformError("there is no TF here, as tf2_ros is not installed")
        from tf2_ros import TransformException

        try:
            # TF knows no frame that begins with a slash, as those of ROS 1 did.
            frame, stamp = header.frame_id.lstrip("/"), Time.from_msg(header.stamp)
            transform = buffer.lookup_transform(vehicle_frame, frame, stamp).transform
        except TransformException as error:
            raise TransformError(f"TF does not know it: {' '.join(str(error).split()).rstrip('. ')}") from error
        move, turn = transform.translation, transform.rotation
        return Mounting.from_transform((move.x, move.y, move.z), (turn.x, turn.y, turn.z, turn.w))

    def _begin(self) -> None:
        try:
            from tf2_ros import Buffer, TransformListener
        except ImportError:
            return
        self._buffer = Buffer()
        self._listener = TransformListener(self._buffer, self._node)
