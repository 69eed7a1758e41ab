"""The page's endpoints: routes, and errors as JSON of one form.

No request names a file: jobs have random ids, the page's own files are those of a fixed table.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

import hicmae
from hicmae.page import answers
from hicmae.page.guard import Guard
from hicmae.page.jobs import (
    Analyst,
    JobQueue,
    PageJob,
    QueueFullError,
    UploadFolder,
    shown_name,
)
from hicmae.page.live import look_live, why_not_live
from hicmae.page.settings import Limits

_ASSETS = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/recorder.js": ("recorder.js", "text/javascript; charset=utf-8"),
    "/live.js": ("live.js", "text/javascript; charset=utf-8"),
    "/microphone.js": ("microphone.js", "text/javascript; charset=utf-8"),
}
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


_NO_JOB = {"cause": "no-job", "message": "no such recording; results are kept for some minutes"}


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
