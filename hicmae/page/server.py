"""The page's endpoints: routes, live windows of a camera, and errors as JSON of one form.

No request names a file: jobs have random ids, the page's own files are those of a fixed table.
Live is for browsers of this machine alone, judged by the address and by the name that is asked for;
a tunnel (``ssh -L``) looks like one that is. A window comes whole, so that nothing is kept.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

import numpy as np
import simplejpeg
from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

import hicmae
from hicmae.media.crops import decode_jpeg
from hicmae.page import answers
from hicmae.page.guard import Guard, is_loopback
from hicmae.page.jobs import (
    Analyst,
    JobQueue,
    Limits,
    PageJob,
    QueueFullError,
    UploadFolder,
    shown_name,
)
from hicmae.prediction.live import LiveFrame, LiveNetwork, LiveSound, LiveSource

_ASSETS = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/recorder.js": ("recorder.js", "text/javascript; charset=utf-8"),
    "/live.js": ("live.js", "text/javascript; charset=utf-8"),
    "/microphone.js": ("microphone.js", "text/javascript; charset=utf-8"),
}
# Up to here a part of a form stays in memory, see ``starlette.formparsers``.
_MOST_BYTES = 1 << 20
_MOST_FRAMES, _MOST_PIXELS = 200, 4_000_000
_PASSED_ON = ("forwarded", "via", "x-forwarded-for", "x-real-ip")
_NO_JOB = {"cause": "no-job", "message": "no such recording; results are kept for some minutes"}
_POLL_SECONDS = 0.1
_FORM_BYTES = 1 << 16  # around the file in a form
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": answers.Failure, "description": text}
    for status, text in {
        403: "From another web site",
        413: "Larger than the limit",
        421: "Under a host name that is not this page's",
        422: "Not a recording, or one that cannot be used; the cause is named",
        503: "As many wait as may; try again later",
    }.items()
}


def make_app(
    analyst: Analyst,
    *,
    limits: Limits,
    folder: UploadFolder,
    names: set[str],
    any_address: bool = False,
) -> FastAPI:
    """The application that a server runs.

    Args:
        analyst: What looks at recordings.
        limits: How much is taken.
        folder: Where uploads lie; it is deleted when the application ends.
        names: Host names under which the page may be asked for.
        any_address: Whether numeric addresses are among them.
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
        max_bytes=limits.num_bytes + _FORM_BYTES,
    )
    app.add_exception_handler(StarletteHTTPException, _as_failure)
    app.add_exception_handler(RequestValidationError, _as_bad_request)
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
    def model(request: Request) -> answers.Model:
        return answers.Model(
            **analyst.describe(),
            max_megabytes=limits.megabytes,
            max_seconds=limits.seconds,
            live=why_not_live(request, analyst),
        )

    @app.post("/api/predict", summary="A recording in, its prediction out", responses=_ERRORS)
    async def predict(request: Request, file: Annotated[UploadFile, File()]) -> answers.Prediction:
        """Waits for its turn, then for the result. Errors name a cause; the recording is deleted
        in any case. For progress, or to give up, use /api/jobs.
        """
        job = await asyncio.to_thread(enqueue, file)
        try:
            while not await request.is_disconnected():
                status = jobs.status(job.id)
                if status is None:
                    break
                if status["state"] == "failed":
                    raise HTTPException(422, status["error"])
                if status["state"] == "done":
                    return answers.Prediction.model_validate(status["result"])
                await asyncio.sleep(_POLL_SECONDS)
            raise HTTPException(503, {"cause": "gone", "message": "nobody waited for the result"})
        finally:
            jobs.forget(job.id)

    @app.post("/api/jobs", status_code=202, summary="Let a recording wait", responses=_ERRORS)
    def add_job(file: Annotated[UploadFile, File()]) -> answers.Progress:
        """Answers at once; ask /api/jobs/{id} how it goes."""
        return answers.Progress.model_validate(jobs.status(enqueue(file).id))

    @app.get(
        "/api/jobs/{id}",
        summary="How a recording goes",
        responses={404: {"model": answers.Failure}},
    )
    def job_status(id: str) -> answers.Progress:
        status = jobs.status(id)
        if status is None:
            raise HTTPException(404, _NO_JOB)
        return answers.Progress.model_validate(status)

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
    ) -> answers.Live:
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


def _asset(file: str, kind: str) -> Any:
    content = (resources.files("hicmae.page") / "assets" / file).read_bytes()

    def answer() -> Response:
        return Response(content, media_type=kind)

    return answer


async def _as_failure(request: Request, error: Exception) -> JSONResponse:
    """An error in the one form that all have."""
    assert isinstance(error, StarletteHTTPException)
    detail: Any = error.detail
    if not isinstance(detail, dict):
        detail = {"cause": "request", "message": str(detail)}
    headers = {"Retry-After": "10"} if error.status_code == 503 else None
    return JSONResponse({"error": detail}, status_code=error.status_code, headers=headers)


async def _as_bad_request(request: Request, error: Exception) -> JSONResponse:
    """A form without a file."""
    message = "send the recording as the form field 'file' (curl -F file=@clip.mp4 …)"
    if request.url.path == "/api/live":
        message = "send the form fields about, frames and sound, as /openapi.json says"
    return JSONResponse({"error": {"cause": "request", "message": message}}, status_code=422)
