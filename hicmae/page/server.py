"""The page's endpoints: what they answer, routes, live windows of a camera, errors of one form.

The answers are documented in /openapi.json, which shows the classes' names; times are seconds after
the recording's beginning, as players count them.

No request names a file: jobs have random ids, the page's own files are those of a fixed table.
Live is for browsers of this machine alone, judged by the address and by the name that is asked for;
a tunnel (``ssh -L``) looks like one that is. A window comes whole, so that nothing is kept.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any, Literal

import numpy as np
import simplejpeg
from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

import hicmae
from hicmae.heads import rounded
from hicmae.media.crops import decode_jpeg
from hicmae.page.guard import Guard, is_loopback
from hicmae.page.jobs import (
    Analyst,
    JobQueue,
    PageJob,
    QueueFullError,
    UploadFolder,
    shown_name,
)
from hicmae.page.settings import Limits
from hicmae.prediction.live import LiveFrame, LiveNetwork, LiveSound, LiveSource

log = logging.getLogger(__name__)
_SCRIPTS = ("page.js", "charts.js", "recorder.js", "live.js", "microphone.js")
_ASSETS = {  # routes to files and their kinds
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{f"/{file}": (file, "text/javascript; charset=utf-8") for file in _SCRIPTS},
}
# Up to here a part of a form stays in memory, see ``starlette.formparsers``.
_MOST_BYTES = 1 << 20
_MOST_FRAMES, _MOST_PIXELS = 200, 4_000_000
_PASSED_ON = ("forwarded", "via", "x-forwarded-for", "x-real-ip")
_NO_JOB = {
    "cause": "no-job",
    "message": "no such recording: it is forgotten some minutes after it was looked at, or where "
    "nobody asks for it any more, and when `hicmae serve` ends; send it again",
}
_POLL_SECONDS = 0.1


class Error(BaseModel):
    """Why something was refused."""

    cause: str = Field(description="A word: no-face, damaged, too-large, busy, …")
    message: str = Field(description="The same in a sentence")


class Failure(BaseModel):
    """The form of every error."""

    error: Error


class Head(BaseModel):
    """One of several heads of a network."""

    name: str
    kind: str = Field(description="As of hicmae.heads.HeadLabels")
    names: list[str] = Field(description="One for each of its outputs")
    thresholds: list[float] = Field(description="As of hicmae.heads.HeadLabels")


class Network(BaseModel):
    """What a network is, and what its outputs are."""

    kind: Literal["emotion", "pretraining"]
    task: Literal["classification", "regression", "joint", "none"]
    labels: list[str] = Field(description="What the outputs stand for; empty if pretrained")
    heads: list[Head] = Field(default=[], description="Of several heads; their labels in a row")
    scales: list[list[int]] = Field(
        default=[], description="Numbers of the labels that are real values, by a common axis"
    )
    sizes: list[float] = Field(default=[], description="Of each label, how large it usually gets")
    min_confidence: float = Field(
        default=0.0, description="Where no class is as probable, the answer is: not sure"
    )


class Model(Network):
    """What the network is, and what the page takes."""

    name: str
    modalities: str
    num_parameters: int
    window_seconds: float
    hop_seconds: float
    max_megabytes: float
    max_seconds: float
    live: str = Field(
        description="Why this browser's camera cannot be looked at live; empty: it can"
    )


class Outputs(BaseModel):
    """Probabilities, or real values, one for each label; null: could not be computed."""

    both: list[float] | None = Field(default=None, description="Everything that there is")
    video: list[float] | None = Field(default=None, description="The picture alone")
    audio: list[float] | None = Field(default=None, description="The sound alone")
    said: dict[str, str] = Field(default={}, description="What several heads say, by each of these")


class Window(Outputs):
    """One prediction."""

    start: float
    end: float


class Reconstruction(BaseModel):
    """What a pretrained network makes of hidden parts; pictures are data: URLs."""

    start: float
    end: float
    original: list[str] = Field(description="Frames as they are")
    masked: list[str] = Field(description="What the network sees of them")
    filled: list[str] = Field(description="What it makes of that")
    fbank: list[str] = Field(description="The filter bank: as it is, masked, filled")
    error: float = Field(description="Mean squared error of the hidden pixels, in 0..1 squared")


class Track(BaseModel):
    """One face that is followed, or the sound alone."""

    name: str
    is_face: bool
    start: float
    end: float
    coverage: float = Field(description="Share of the looked-at frames that show this face")
    box_rate: float = Field(description="Boxes a second, the first at start")
    boxes: list[tuple[float, float, float, float, float]] = Field(
        description="Centre x and y, width, height (of the picture's, 0..1), degrees clockwise"
    )
    thumbnail: str = Field(description="data: URL; empty without a face")
    summary: Outputs = Field(description="Mean over the windows")
    windows: list[Window]
    reconstructions: list[Reconstruction] = []


class FilterBank(BaseModel):
    """The sound as the network is given it."""

    picture: str = Field(description="data: URL of a PNG; time to the right, low notes below")
    start: float
    end: float


class Prediction(Network):
    """Everything about one recording."""

    seconds: float
    width: int
    height: int
    has_sound: bool
    notes: list[str]
    tracks: list[Track]
    filter_bank: FilterBank | None
    timings: dict[str, float] = Field(description="Seconds that the work took, by part")


class Progress(BaseModel):
    """Where a recording is."""

    id: str
    name: str
    state: Literal["waiting", "running", "done", "failed"]
    ahead: int = Field(description="Recordings before it")
    stage: str
    share: float = Field(description="Of the stage, 0..1")
    error: Error | None
    result: Prediction | None


_Clock = Annotated[float, Field(ge=-1e10, le=1e10)]  # no clock shows more; samples are counted


class LiveWindow(BaseModel):
    """What comes with the pictures and the sound of a window; times are of one clock, seconds."""

    end: _Clock = Field(description="Where the window ends; it is one clip of the network long")
    times: list[_Clock] = Field(default=[], description="When each picture was taken, ascending")
    sound_start: _Clock = Field(default=0.0, description="When the first sample was taken")
    sound_rate: int = Field(default=48000, ge=8000, le=384000, description="Samples a second")


class Live(BaseModel):
    """What the network says of a window."""

    modality: str = Field(description="What it went by: audio-video, video, audio; empty: nothing")
    values: list[float] | None = Field(description="One for each label; null: nothing to go by")
    said: str = Field(default="", description="What several heads say")
    box: tuple[float, float, float, float, float] | None = Field(
        description="Of the face in the last picture, as those of a track"
    )
    seconds: float = Field(description="That the work took")


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": text}
    for status, text in {
        403: "From another web site",
        413: "Larger than the limit",
        421: "Under a host name that is not this page's",
        422: "Not a recording, or one that cannot be used; the cause is named",
        503: "As many wait as may, or the server ends; try again later",
        507: "No room for the upload on the machine that runs this page",
    }.items()
}


def make_app(
    analyst: Analyst,
    *,
    limits: Limits,
    folder: UploadFolder,
    names: set[str],
    any_address: bool = False,
    is_ending: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """The application that a server runs.

    Args:
        folder: Where uploads lie; it is deleted when the application ends.
        names: Host names under which the page may be asked for.
        any_address: Whether numeric addresses are among them.
        is_ending: Whether the server was told to end, so that nobody is to be kept waiting.
    """
    jobs, looking = JobQueue(analyst, limits), threading.Lock()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        jobs.close()
        folder.close()

    app = FastAPI(
        title="hicmae",
        version=hicmae.__version__,
        summary="Emotion from one recording",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(
        Guard,
        names=names,
        any_address=any_address,
        max_bytes=limits.num_bytes,
    )
    app.add_exception_handler(StarletteHTTPException, _as_failure)
    app.add_exception_handler(RequestValidationError, _as_bad_request)
    app.add_exception_handler(OSError, _as_not_kept)
    for route, (file, kind) in _ASSETS.items():
        app.add_api_route(route, _asset(file, kind), include_in_schema=False)

    def enqueue(upload: UploadFile) -> PageJob:
        """Keep an upload, and let it wait."""
        try:
            jobs.require_room()
            path = folder.save(upload.file)
            try:
                return jobs.add(path, shown_name(upload.filename))
            except QueueFullError:
                path.unlink(missing_ok=True)
                raise
        except QueueFullError:
            message = f"{limits.waiting + 1} recordings are waiting or in work; try again later"
            raise HTTPException(503, {"cause": "busy", "message": message}) from None

    @app.get("/api/model", summary="What the network is, and what the page takes")
    def model(request: Request) -> Model:
        return Model(
            **analyst.describe(),
            max_megabytes=limits.megabytes,
            max_seconds=limits.seconds,
            live=why_not_live(request, analyst),
        )

    @app.post("/api/predict", summary="A recording in, its prediction out", responses=_ERRORS)
    async def predict(request: Request, file: Annotated[UploadFile, File()]) -> Prediction:
        """Waits for its turn, then for the result. Errors name a cause; the recording is deleted
        in any case. For progress, or to give up, use /api/jobs.
        """
        job = await asyncio.to_thread(enqueue, file)
        try:
            while not await request.is_disconnected():
                status = jobs.status(job.id)
                if status is None:
                    break
                if is_ending():
                    message = "`hicmae serve` was ended before it had looked at the recording"
                    raise HTTPException(503, {"cause": "ended", "message": message})
                if status["state"] == "failed":
                    raise HTTPException(422, status["error"])
                if status["state"] == "done":
                    return Prediction.model_validate(status["result"])
                await asyncio.sleep(_POLL_SECONDS)
            raise HTTPException(503, {"cause": "gone", "message": "nobody waited for the result"})
        finally:
            jobs.forget(job.id)

    @app.post("/api/jobs", status_code=202, summary="Let a recording wait", responses=_ERRORS)
    def add_job(file: Annotated[UploadFile, File()]) -> Progress:
        """Answers at once; ask /api/jobs/{id} how it goes."""
        return Progress.model_validate(jobs.status(enqueue(file).id))

    @app.get(
        "/api/jobs/{id}",
        summary="How a recording goes",
        responses={404: {"model": Failure}},
    )
    def job_status(id: str) -> Progress:
        status = jobs.status(id)
        if status is None:
            raise HTTPException(404, _NO_JOB)
        return Progress.model_validate(status)

    @app.delete("/api/jobs/{id}", status_code=204, summary="Give a recording up")
    def drop_job(id: str) -> None:
        if not jobs.forget(id):
            raise HTTPException(404, _NO_JOB)

    @app.post(
        "/api/live",
        summary="The last seconds of a camera of this machine in, what they show out",
        responses=_ERRORS,
    )
    def live(
        request: Request,
        about: Annotated[str, Form(description="JSON, see LiveWindow")],
        frames: Annotated[list[UploadFile], File(description="JPEG")] = [],  # noqa: B006
        sound: Annotated[UploadFile | None, File(description="int16, one channel")] = None,
    ) -> Live:
        """Frames and sound come whole with every window; nothing of them is kept or written."""
        if why := why_not_live(request, analyst):
            raise HTTPException(403, {"cause": "not-live", "message": why})
        with looking:  # one window after the other
            return look_live(analyst.live(), about, frames, sound)

    return app


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
) -> Live:
    """Look at one window.

    Args:
        about: An ``LiveWindow`` as JSON.
        frames: JPEG pictures.
        sound: int16 samples, little endian, one channel.

    Raises: HTTPException: 413 or 422: it is too large, or cannot be read.
    """
    began = time.monotonic()
    try:
        window = LiveWindow.model_validate_json(about)
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
    values = None if moment.values is None else rounded(moment.values)
    return Live(
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


def _asset(file: str, kind: str) -> Any:
    content = (resources.files("hicmae.page") / "assets" / file).read_bytes()

    def answer() -> Response:
        return Response(content, media_type=kind)

    return answer


async def _as_failure(request: Request, error: Exception) -> JSONResponse:
    """An error in the one form that all have."""
    assert isinstance(error, StarletteHTTPException)
    if isinstance(error.__cause__, OSError):  # while the form was read
        return await _as_not_kept(request, error.__cause__)
    detail: Any = error.detail
    if not isinstance(detail, dict):
        detail = {"cause": "request", "message": str(detail)}
    headers = {"Retry-After": "10"} if error.status_code == 503 else None
    return JSONResponse({"error": detail}, status_code=error.status_code, headers=headers)


async def _as_not_kept(request: Request, error: Exception) -> JSONResponse:
    """An upload that could not be written; who runs the page is told where."""
    assert isinstance(error, OSError)
    message = f"the upload cannot be kept ({(error.strerror or str(error)).lower()})"
    log.error("%s: make room in %s, or set TMPDIR", message, tempfile.gettempdir())
    return JSONResponse({"error": {"cause": "not-kept", "message": message}}, status_code=507)


async def _as_bad_request(request: Request, error: Exception) -> JSONResponse:
    """A form without a file."""
    message = "send the recording as the form field 'file' (curl -F file=@clip.mp4 …)"
    if request.url.path == "/api/live":
        message = "send the form fields about, frames and sound, as /openapi.json says"
    return JSONResponse({"error": {"cause": "request", "message": message}}, status_code=422)
