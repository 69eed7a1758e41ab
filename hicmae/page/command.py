"""``hicmae serve``: from a checkpoint to a page on this machine.

The page listens before the network is loaded, so that a port that is taken is said at once.
"""

from __future__ import annotations

import os
import socket

from hicmae.page.settings import Limits
from hicmae.prediction.messages import Choice, WindowConfig

_LIMITS = Limits()
_LAST_SECONDS = 5  # for answers that are under way when the page ends


def serve(
    *,
    checkpoint: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    allowed_hosts: tuple[str, ...] = (),
    hop: float = 1.0,
    faces: str = "profile",
    face_choice: Choice = "all",
    limits: Limits = _LIMITS,
    device: str = "auto",
    precision: str = "auto",
    offline: bool = False,
    deadline_seconds: float = 120.0,
) -> None:
    """Open a page on this machine that shows what a network sees and hears in a clip.

    Drop or record a clip: face box, emotion over time, which modality mattered, filter bank; of a
    pretrained checkpoint reconstructions. Live: what the camera shows, a window a second, with the
    measured delay; only in a browser on this machine, whose pictures and sound go nowhere else.
    Programs post to /api/predict, described in /openapi.json. Recordings are deleted as soon as
    they were looked at.

    Args:
        checkpoint: A checkpoint or run folder, owner/name on the Hub, or https://….
        host: Address to listen at; the default is reached from this machine alone.
        port: Its port; 0: any that is free.
        allowed_hosts: Further names under which the page may be opened, such as that of a proxy.
        hop: Seconds from one prediction to the next; each is about one clip of the network.
        faces: Detector; profile: the one with which the checkpoint's training data was made, with
            its settings; another has its defaults. none takes the middle of the picture, for face
            crops.
        face_choice: All faces, of which the page shows one or the other, or the largest, the most
            central, the one that speaks, or the one that the checkpoint's training data would have
            (profile).
        limits: How much is taken, and for how long it is kept.
        device: auto (a GPU if there is one), cpu, cuda, ….
        precision: auto (bf16 where the machine computes in it), 32-true or bf16-mixed.
        offline: Never fetch the detector's file.
        deadline_seconds: A recording whose decoding shows no sign of life for so long is given up.

    Raises:
        ValueError: No such checkpoint or device, or the port is taken.
    """
    import uvicorn

    from hicmae.page.analysis import open_analyst
    from hicmae.page.guard import is_loopback, known_names
    from hicmae.page.jobs import UploadFolder
    from hicmae.page.server import make_app

    if faces == "boxes":
        raise ValueError("serve: faces = boxes (an upload brings no list of boxes)")
    windows = WindowConfig(
        hop=hop,
        faces=faces,
        face_choice=face_choice,
        offline=offline,
        deadline_seconds=deadline_seconds,
    )
    listener = bound_socket(host, port)
    with listener:
        analyst = open_analyst(
            checkpoint,
            windows,
            limits,
            device=device,
            precision=precision,
            tell=lambda *notes: [print(f"note: {note}") for note in notes],
        )
        folder = UploadFolder()
        local = is_loopback(host)
        app = make_app(
            analyst,
            limits=limits,
            folder=folder,
            names=known_names(host, allowed_hosts),
            any_address=not local,
            is_ending=lambda: server.should_exit,
        )
        facts = analyst.describe()
        print(f"{facts['name']}: {facts['kind']}, {facts['num_parameters'] / 1e6:.1f} M parameters")
        if not local:
            print(
                f"--host {host}: everybody who reaches this machine may upload recordings and see "
                "what comes of his own; there is no password and no encryption"
            )
        print(f"open {url_of(host, listener)} (Ctrl+C ends it)", flush=True)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_LAST_SECONDS,
            )
        )
        try:
            server.run(sockets=[listener])
        finally:
            folder.close()
            analyst.close()


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises: ValueError: no such address here, or the port is taken or not allowed.
    """
    if not 0 <= port < 65536:
        raise ValueError(f"port = {port} (must lie in 0..65535; 0 takes any that is free)")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=64)
    except (OSError, UnicodeError) as error:
        why = str(error)
        if isinstance(error, OSError) and not isinstance(error, socket.gaierror):
            # create_server adds the address to the text, which says it already.
            why = os.strerror(error.errno or 0)
        raise ValueError(
            f"cannot listen at {host}, port {port} ({why.lower()}); give another --port (0: any "
            "that is free) or --host"
        ) from error


def url_of(host: str, listener: socket.socket) -> str:
    """What to open on this machine."""
    port = listener.getsockname()[1]
    shown = "localhost" if host in ("0.0.0.0", "::", "127.0.0.1", "::1") else host
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/"
