"""Pictures come as a player shows them: square pixels, whole frames, the range of a screen."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from hicmae.media.container import open_container
from hicmae.media.errors import MediaError
from hicmae.media.picture import Orientation, Picture, deinterlaced, tone_mapped
from hicmae.media.video import open_video
from shards.building.build import build_shards
from tests.support.build_fixtures import config, samples
from tests.support.media_files import frames_of, opened, write_planes

# Codes of ISO/IEC 23091-2: primaries, transfer and matrix of BT.2020, limited range.
TRANSFERS = {"pq": (9, 16, 9, 1), "hlg": (9, 18, 9, 1)}


def grey(luma: np.ndarray) -> list[np.ndarray]:
    """Planes of 4:2:0 of a picture (H, W) without colours, 0..1."""
    half = np.full((luma.shape[0] // 2, luma.shape[1] // 2), 128, np.uint8)
    return [np.round(16 + 219 * luma).astype(np.uint8), half, half]


def disc(height: int, width: int, aspect: Fraction) -> np.ndarray:
    """A disc (H, W) that is round where a pixel is ``aspect`` times as wide as high."""
    y, x = np.mgrid[:height, :width]
    wide, high = (x + 0.5 - width / 2) * float(aspect), y + 0.5 - height / 2
    return np.where(wide**2 + high**2 < (0.35 * min(height, width * float(aspect))) ** 2, 0.9, 0.1)


@pytest.mark.parametrize(
    ("name", "codec", "height", "width", "aspect", "rotation", "shown"),
    [
        ("hdv.mp4", "libx264", 108, 144, Fraction(4, 3), None, (108, 192)),
        ("pal.mpg", "mpeg2video", 144, 180, Fraction(64, 45), None, (144, 256)),
        ("ntsc.mkv", "libx264", 120, 176, Fraction(10, 11), None, (132, 176)),
        ("upright.mov", "libx264", 108, 144, Fraction(4, 3), 90, (192, 108)),
        ("nonsense.mp4", "libx264", 96, 96, Fraction(40, 1), None, (96, 96)),
        ("square.mp4", "libx264", 96, 96, Fraction(1), None, (96, 96)),
    ],
)
def test_pixels_that_are_not_square_are_squared(
    tmp_path: Path,
    name: str,
    codec: str,
    height: int,
    width: int,
    aspect: Fraction,
    rotation: int | None,
    shown: tuple[int, int],
) -> None:
    real = aspect if aspect <= 2 else Fraction(1)
    pictures = [grey(disc(height, width, real))] * 3
    path = write_planes(
        tmp_path / name, pictures, "yuv420p", codec, aspect=aspect, rotation=rotation
    )
    with open_video(path) as reader:
        bright = frames_of(reader, [1])[0][..., 1] > 128
        changes = reader.stream.picture.changes
    assert bright.shape == shown == (reader.height, reader.width)
    across, down = bright.any(axis=0).sum(), bright.any(axis=1).sum()
    assert across == pytest.approx(down, abs=2)
    squared = {} if real == 1 else {"pixel_aspect": f"{real.numerator}:{real.denominator}"}
    assert changes == squared


def write_sizes(path: Path, part: str, codec: str, sizes: Sequence[tuple[int, int]]) -> Path:
    """Ten pictures of a disc of each size, joined without encoding anew from files named so."""
    last, fast = 0, {"deadline": "realtime"} if "vpx" in codec else {}
    with av.open(str(path), "w") as out:
        copy = None
        for number, (height, width) in enumerate(sizes):
            pictures = [grey(disc(height, width, Fraction(1)))] * 10
            file = write_planes(
                path.parent / f"{number}{part}", pictures, "yuv420p", codec, options=fast
            )
            with av.open(str(file)) as source:
                stream = source.streams.video[0]
                copy = copy or out.add_stream_from_template(stream)
                stamps = []
                for packet in filter(lambda packet: packet.size, source.demux(stream)):
                    assert packet.pts is not None
                    packet.pts, packet.dts = packet.pts + last, packet.dts + last
                    packet.stream = copy
                    stamps.append(packet.pts)
                    out.mux(packet)
                last = max(stamps) + (max(stamps) - min(stamps)) // 9 - min(stamps)
    return path


@pytest.mark.parametrize(
    ("sizes", "shown", "across"),
    [
        (((96, 128), (128, 96)), (96, 128), (68, 50)),  # a phone that is turned
        (((48, 64), (96, 128)), (96, 128), (68, 68)),  # a call that begins small
        (((96, 128), (96, 128)), (96, 128), (68, 68)),
    ],
)
@pytest.mark.parametrize(
    ("part", "whole", "codec"),
    [
        ("a.webm", "whole.webm", "libvpx"),
        ("a.webm", "whole.webm", "libvpx-vp9"),
        ("a.ts", "whole.ts", "libx264"),
        ("a.ts", "whole.mkv", "mpeg2video"),
    ],
)
def test_pictures_of_another_size_keep_their_proportions(
    tmp_path: Path,
    part: str,
    whole: str,
    codec: str,
    sizes: Sequence[tuple[int, int]],
    shown: tuple[int, int],
    across: tuple[int, int],
) -> None:
    path = write_sizes(tmp_path / whole, part, codec, sizes)
    with open_video(path) as reader:
        bright = frames_of(reader, [2, 17])[..., 1] > 128
        assert reader.changes == ({"sizes": 2} if sizes[0] != sizes[1] else {})
    assert bright.shape[1:] == shown == (reader.height, reader.width)
    for picture, wide in zip(bright, across, strict=True):
        found = [int(picture.any(axis=axis).sum()) for axis in (0, 1)]
        assert found == pytest.approx([wide, wide], abs=2)
        middle = [np.flatnonzero(picture.any(axis=axis)).mean() + 0.5 for axis in (0, 1)]
        assert middle == pytest.approx([shown[1] / 2, shown[0] / 2], abs=1.5)


def test_a_picture_of_another_shape_is_in_the_middle_of_the_height() -> None:
    about = {"interlaced": False, "transfer": "sdr", "orientation": Orientation()}
    stored: Any = {"stored_height": 8, "stored_width": 4, "num_sizes": 2, **about}
    white = av.VideoFrame.from_ndarray(np.full((4, 8, 3), 255, np.uint8), format="rgb24")
    shown = Picture(pixel_aspect=Fraction(1), **stored).rgb(white)
    assert np.flatnonzero(shown.any(axis=(1, 2))).tolist() == [3, 4]


def moving_fields(count: int, order: str) -> list[np.ndarray]:
    """Frames (96, 128) of two fields; a bar moves on by 2 pixels from field to field."""
    frames = np.zeros((count, 96, 128))
    for number in range(2 * count):
        rows = slice(number % 2 if order == "tff" else 1 - number % 2, None, 2)
        frames[number // 2, rows, 2 * number : 2 * number + 30] = 1
    return list(frames)


def test_columns_that_are_cut_off_on_the_left_are_all_of_those_that_the_recording_says(
    tmp_path: Path,
) -> None:
    ramp = np.linspace(0, 1, 320)[None].repeat(96, axis=0)
    whole = write_planes(tmp_path / "whole.ts", [grey(ramp)] * 3, "yuv420p", "libx264")
    path = tmp_path / "cut.ts"
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        cut = BitStreamFilterContext("h264_metadata=crop_left=80:crop_right=80", stream)
        copy = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            for changed in cut.filter(packet if packet.size else None):
                changed.stream = copy
                out.mux(changed)
    with open_video(path) as one, open_video(whole) as other:
        shown, all_of_it = frames_of(one, range(3)), frames_of(other, range(3))
    np.testing.assert_array_equal(shown, all_of_it[:, :, 80:240])


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "mpeg2video"), ("a.mpg", "mpeg2video"), ("a.avi", "mpeg4")],
)
def test_fields_become_frames_in_their_order(
    tmp_path: Path, name: str, codec: str, order: str
) -> None:
    pictures = [grey(frame) for frame in moving_fields(20, order)]
    path = write_planes(
        tmp_path / name,
        pictures,
        "yuv420p",
        codec,
        fields=order,
        options={"flags": "+ildct+ilme"},
    )
    with open_video(path) as reader:
        frames = frames_of(reader, range(20))
        assert reader.stream.picture.changes == {"deinterlaced": True}
    luma = frames[1:-1, :, :, 1].astype(int)
    combs = np.abs(luma[:, 1:-1] - (luma[:, :-2] + luma[:, 2:]) / 2) > 64
    assert combs.mean() < 1e-3
    edges = (luma[:, 48] > 128).argmax(axis=1)  # of the first field of every frame
    np.testing.assert_allclose(edges, 4 * np.arange(1, 19), atol=1)
    for indices in ([0], [7], [12, 13], [19]):
        with open_video(path) as reader:
            np.testing.assert_array_equal(frames_of(reader, indices), frames[indices])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: one thread anyhow")
def test_pictures_that_are_held_hold_no_threads(tmp_path: Path) -> None:
    """They are slow to start, and a forked process waits for them for ever, or ends, at some
    collection of garbage."""
    pictures = [grey(frame) for frame in moving_fields(6, "tff")]
    options = {"flags": "+ildct+ilme"}
    path = write_planes(tmp_path / "a.mkv", pictures, "yuv420p", "mpeg2video", options=options)
    with open_video(path) as reader:
        picture = reader.stream.picture
    before = len(list(Path("/proc/self/task").iterdir()))
    with open_container(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        held = list(container.decode(stream))
        whole = deinterlaced(enumerate(held))
        held += [frame for _, frame in itertools.islice(whole, 3)]
        for frame in held:
            picture.rgb(frame)
        assert len(held) == 9
        assert len(list(Path("/proc/self/task").iterdir())) == before
        whole.close()


def test_fields_that_begin_later_are_noticed(tmp_path: Path) -> None:
    still = [np.zeros((96, 128))] * 30
    whole = write_planes(tmp_path / "w.mkv", [grey(p) for p in still], "yuv420p", "mpeg2video")
    with open_video(whole) as reader:
        assert reader.stream.picture.changes == {}
    data = (tmp_path / "whole.mpg", tmp_path / "fields.mpg")
    pictures = [grey(p) for p in moving_fields(30, "tff")]
    options = {"flags": "+ildct+ilme"}
    write_planes(data[0], [grey(p) for p in still[:12]], "yuv420p", "mpeg2video")
    write_planes(data[1], pictures, "yuv420p", "mpeg2video", fields="tff", options=options)
    both = tmp_path / "both.mpg"  # program streams may be joined as they are
    both.write_bytes(data[0].read_bytes() + data[1].read_bytes())
    with open_video(both) as reader:
        assert reader.stream.picture.changes == {"deinterlaced": True}


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p10le", "yuyv422", "rgb24"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_frame_comes_back_in_its_colours(pixels: str, count: int) -> None:
    frames = []
    for number in range(count):
        frame = av.VideoFrame(64, 49, pixels)
        frame.colorspace, frame.color_range = 1, 2
        frames.append((10 + 3 * number, frame))
    found = list(deinterlaced(frames))
    assert [number for number, _ in found] == [number for number, _ in frames]
    assert {(frame.colorspace, frame.color_range) for _, frame in found} == {(1, 2)}


# A scene in codes of sRGB, eight patches: greys, skin, and what BT.709 just holds.
# fmt: off
SCENE = np.array([
    [235, 235, 235], [128, 128, 128], [60, 60, 60], [20, 20, 20],
    [205, 150, 120], [120, 70, 50], [200, 40, 40], [40, 160, 60],
])
# fmt: on
BT709_TO_BT2020 = np.array(
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)
WEIGHTS_2020 = np.array([0.2627, 0.6780, 0.0593])


def encoded(light: np.ndarray, transfer: str) -> np.ndarray:
    """Codes 0..1 of light (n, 3) of BT.709, 1 of which is 203 cd/m2; as BT.2100 encodes it."""
    nits = light @ BT709_TO_BT2020.T * 203
    if transfer == "pq":
        power = np.clip(nits / 10000, 0, 1) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    display = nits / 1000
    luminance = display @ WEIGHTS_2020
    scene = display * np.maximum(luminance, 1e-12)[:, None] ** (1 / 1.2 - 1)
    curved = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), curved)


def linear(codes: np.ndarray) -> np.ndarray:
    share = codes / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_high_dynamic_range_looks_like_the_standard_one(tmp_path: Path, transfer: str) -> None:
    rgb = encoded(linear(SCENE), transfer)
    luma = rgb @ WEIGHTS_2020
    planes = [64 + 876 * luma, 512 + 896 * (rgb[:, 2] - luma) / 1.8814]
    planes.append(512 + 896 * (rgb[:, 0] - luma) / 1.4746)
    bars = [np.round(plane).astype("<u2").repeat(32)[None].repeat(64, 0) for plane in planes]
    name = {"pq": "smpte2084", "hlg": "arib-std-b67"}[transfer]
    tags = f"log-level=none:qp=1:colorprim=bt2020:transfer={name}:colormatrix=bt2020nc"
    path = write_planes(
        tmp_path / "a.mp4",
        [bars] * 3,
        "yuv444p10le",
        "libx265",
        colours=TRANSFERS[transfer],
        options={"preset": "ultrafast", "x265-params": tags},
    )
    with open_video(path) as reader:
        shown = frames_of(reader, [1])[0][32, 16::32].astype(int)
        assert reader.stream.picture.changes == {"tone_mapped": transfer}
    np.testing.assert_allclose(shown, SCENE, atol=4)
    with pytest.raises(MediaError, match=r"decord leaves it as stored \(tone_mapped\)"):
        opened(path, "decord")


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_light_beyond_white_comes_near_it_and_keeps_its_hue(transfer: str) -> None:
    skin = linear(np.array([205, 150, 120]))
    times = np.array([0.1, 0.5, 1, 1.5, 2, 3, 4])
    codes = np.round(encoded(skin * times[:, None], transfer) * 65535).astype(np.uint16)
    shown = tone_mapped(codes[None], transfer)[0].astype(int)
    assert np.all(np.diff(shown, axis=0) >= 0)
    assert shown.max() == 255
    ratios = linear(shown) / linear(shown).max(axis=1, keepdims=True)
    np.testing.assert_allclose(ratios, (skin / skin.max())[None].repeat(len(times), 0), atol=0.04)
    np.testing.assert_allclose(shown[2], [205, 150, 120], atol=2)


@pytest.mark.slow
def test_a_sample_says_what_was_done_with_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pictures = [grey(frame) for frame in moving_fields(20, "tff")]
    fields = {"fields": "tff", "options": {"flags": "+ildct+ilme"}}
    for name, about in (("dv", {"aspect": Fraction(16, 15), **fields}), ("plain", {})):
        path = tmp_path / f"in/{name}.mkv"
        write_planes(path, pictures, "yuv420p", "libx264", **about)  # type: ignore[arg-type]
    build_shards([tmp_path / "in"], tmp_path / "out", config())
    found = {key: info.picture for key, (info, _, _) in samples(tmp_path / "out").items()}
    assert found == {"dv": {"pixel_aspect": "16:15", "deinterlaced": True}, "plain": {}}
