"""``drive-seg make-bag``: a labelled dataset as a rosbag to replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from drive_seg.cli.options import Json, print_json, screen


def make_bag(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the bag; it must not exist yet.")],
    dataset: Annotated[str, typer.Option(help="Kind of dataset: camvid, cityscapes, folder, synth, ...")],
    root: Annotated[Path | None, typer.Option(help="The dataset's folder.")] = None,
    split: Annotated[str | None, typer.Option(help="Which part of it, as val.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Further argument of the dataset, as classes=camvid11 or seeds=[0,2]; repeatable."),
    ] = None,
    camera: Annotated[str, typer.Option(help="Prefix of the topics.")] = "camera",
    camera_info: Annotated[
        Path | None, typer.Option(help="Calibration file (YAML of camera_calibration) of the camera.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Frames per second, instead of the times in the names; 10 where names tell none."),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="End after so many frames.")] = None,
    compressed: Annotated[
        str | None, typer.Option(help="jpeg or png: CompressedImage topics. Labels stay lossless.")
    ] = None,
    storage: Annotated[str, typer.Option(help="mcap or sqlite3.")] = "mcap",
    figures: Json = None,
) -> None:
    """Turn a labelled dataset into a rosbag2: images, labels, label map and camera_info at the camera's real rate.

    Topics: <camera>/image_raw, <camera>/label_truth (mono8, 255 = void), <camera>/label_map (latched JSON) and, where
    the calibration is known, <camera>/camera_info. Times come from the files' names where they tell them (CamVid,
    Cityscapes, synth, bags, files named by stamps in ns).
    """
    import yaml
    from rich.progress import track

    from drive_seg.datasets import open_dataset
    from drive_seg.recordings.frame_times import FrameTime, frame_times
    from drive_seg.recordings.make_bag import LabelledFrame
    from drive_seg.recordings.make_bag import make_bag as write
    from drive_seg.recordings.sources.topics import so_many

    arguments: dict[str, Any] = {"root": root, "split": split}
    for pair in option or []:
        key, _, value = pair.partition("=")
        arguments[key] = yaml.safe_load(value)
    data = open_dataset(dataset, **{k: v for k, v in arguments.items() if v is not None})
    times, source = frame_times(dataset, [data.name_of(i) for i in range(len(data))], rate)
    times = times[:frames]
    calibration = _calibrations(dataset, camera_info)

    def read(time: FrameTime) -> LabelledFrame:
        image, label = data.read(time.index)
        return LabelledFrame(time.stamp_ns, image, label, calibration(data.name_of(time.index), image))

    def shown() -> Iterator[LabelledFrame]:
        return (read(time) for time in track(times, description="writing", console=screen))

    counts = write(output, shown(), data.label_map, camera=camera, compressed=compressed, storage=storage)
    seconds = (times[-1].stamp_ns - times[0].stamp_ns) / 1e9
    shots = times[-1].shot + 1
    print_json(
        {
            "bag": str(output),
            "dataset": dataset,
            "split": split,
            "label_map": data.label_map.name,
            "frames": len(times),
            "seconds": seconds,
            "shots": shots,
            "times_from": source,
            "storage": storage,
            "bytes": sum(file.stat().st_size for file in output.iterdir()),
            "messages": counts,
        },
        figures,
    )
    if str(figures) != "-":
        of_shots = f" in {shots} shots" if shots > 1 else ""
        typer.echo(f"{so_many(len(times), 'frame')} of {seconds:.3f} s{of_shots} in {output} (times: {source})")


def _calibrations(dataset: str, file: Path | None) -> Callable[[str, Any], Any]:
    """(name of a sample, its image) -> camera_info or None."""
    from drive_seg.recordings.sources.calibration import pinhole, read_calibration

    if file is not None:
        known = read_calibration(file)
        return lambda name, image: known
    if dataset != "synth":
        return lambda name, image: None
    from drive_seg.synth import SynthDrive

    @cache
    def exact(seed: int, width: int, height: int) -> Any:
        return pinhole(SynthDrive(seed=seed, size=(width, height)).camera)

    return lambda name, image: exact(int(name.split()[1]), image.shape[1], image.shape[0])
