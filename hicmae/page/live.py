"""A window of the camera in, what the network says of it out; for browsers of this machine alone.

A window comes whole, so that nothing is kept from one to the next. Whether the browser is here is
judged by its address and by the name it asks for; a tunnel (``ssh -L``) looks like one that is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import simplejpeg
from fastapi import HTTPException, Request, UploadFile
from pydantic import ValidationError

from hicmae.media.crops import decode_jpeg
from hicmae.page import answers
from hicmae.page.guard import is_loopback
from hicmae.page.jobs import Analyst
from hicmae.prediction.live import LiveFrame, LiveNetwork, LiveSound, LiveSource

# Up to here a part of a form stays in memory, see ``starlette.formparsers``.
_MOST_BYTES = 1 << 20
_MOST_FRAMES, _MOST_PIXELS = 200, 4_000_000
_PASSED_ON = ("forwarded", "via", "x-forwarded-for", "x-real-ip")


def why_not_live(request: Request, analyst: Analyst) -> str:
    """Why a browser's camera is not looked at; empty: it is."""
    try:
        analyst.live()
    except ValueError as error:
        return str(error)
    client = request.client.host if request.client else ""
    passed_on = any(name in request.headers for name in _PASSED_ON)
    if passed_on or not is_loopback(client) or not is_loopback(request.url.hostname or ""):
        return (
            "what a camera sees must not leave its machine: live works in a browser on the machine "
            "that runs `hicmae serve`, under the name localhost"
        )
    return ""


def look_live(
    network: LiveNetwork, about: str, frames: Sequence[UploadFile], sound: UploadFile | None
) -> answers.Live:
    """Look at one window.

    Args:
        network: What looks.
        about: An ``answers.LiveWindow`` as JSON.
        frames: JPEG pictures.
        sound: int16 samples, little endian, one channel.

    Raises: HTTPException: 413 or 422: it is too large, or cannot be read.
    """
    began = time.monotonic()
    try:
        window = answers.LiveWindow.model_validate_json(about)
        if len(window.times) != len(frames):
            raise ValueError(f"{len(frames)} frames with {len(window.times)} times")
        parts = [*frames, *([sound] if sound is not None else [])]
        if len(frames) > _MOST_FRAMES or any((part.size or 0) > _MOST_BYTES for part in parts):
            message = f"up to {_MOST_FRAMES} frames, and {_MOST_BYTES >> 20} MiB for each part"
            raise HTTPException(413, {"cause": "too-large", "message": message})
        held = LiveSource(network.input)
        for seconds, frame in zip(window.times, frames, strict=True):
            held.add(LiveFrame(seconds=seconds, pixels=_pixels(frame.file.read())))
        if sound is not None:
            samples = np.frombuffer(sound.file.read(), dtype="<i2")
            rate, start = window.sound_rate, window.sound_start
            held.add(LiveSound(seconds=start, samples=samples, rate=rate))
        near = held.frames(window.end)
        moment = network.look(near, held.sound, window.end)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = f"about: {where or 'JSON'}: {first['msg'].lower()}"
        raise HTTPException(422, {"cause": "request", "message": message}) from None
    except ValueError as error:
        raise HTTPException(422, {"cause": "error", "message": str(error)}) from None
    box = None
    if moment.box is not None:
        size = np.array(near[-1].pixels.shape[1::-1])
        low, high = moment.box[:2], moment.box[2:]
        shares = np.concatenate([(low + high) / 2 / size, (high - low) / size])
        box = (*shares.round(4).tolist(), round(float(np.degrees(moment.angle)), 2))
    values = None if moment.values is None else [round(float(v), 5) for v in moment.values]
    return answers.Live(
        modality=moment.modality,
        values=values,
        said=moment.said,
        box=box,
        seconds=time.monotonic() - began,
    )


def _pixels(jpeg: bytes) -> np.ndarray:
    """A picture, unless its header says more pixels than a camera has.

    Raises: ValueError: it is no JPEG, damaged, or too large.
    """
    height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
    if height * width > _MOST_PIXELS:
        raise ValueError(f"a picture of {width}x{height} pixels (up to {_MOST_PIXELS})")
    return decode_jpeg(jpeg)
