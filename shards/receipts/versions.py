"""The libraries that decide about pixels and sound values.

For: receipts, so that two preparations that differ can be traced to their decoders. Not for: what
this machine has in general (``hicmae doctor``).
"""

from __future__ import annotations

import importlib.metadata

import av

import hicmae

# Decoding, resizing, JPEG, and smoothing of the boxes.
_PACKAGES = ("av", "decord", "numpy", "opencv-python-headless", "scipy")
_FFMPEG = ("libavcodec", "libavformat", "libswresample", "libswscale")


def library_versions() -> dict[str, str]:
    """Name → version of the packages, and of the FFmpeg libraries inside PyAV."""
    versions = {"hicmae": hicmae.__version__}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed under this name"
    for name in _FFMPEG:
        versions[name] = ".".join(map(str, av.library_versions[name]))
    return versions
