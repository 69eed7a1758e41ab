"""What the endpoints answer, as documented in /openapi.json, which shows the classes' names.

Times are seconds after the recording's beginning, as players count them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


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


class Model(BaseModel):
    """What the network is, and what the page takes."""

    name: str
    kind: Literal["emotion", "pretraining"]
    task: Literal["classification", "regression", "joint", "none"]
    labels: list[str] = Field(description="What the outputs stand for; empty if pretrained")
    heads: list[Head] = Field(default=[], description="Of several heads; their labels in a row")
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


class Prediction(BaseModel):
    """Everything about one recording."""

    kind: Literal["emotion", "pretraining"]
    task: Literal["classification", "regression", "joint", "none"]
    labels: list[str]
    heads: list[Head] = Field(default=[], description="Of several heads; their labels in a row")
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


class LiveWindow(BaseModel):
    """What comes with the pictures and the sound of a window; times are of one clock, seconds."""

    end: float = Field(description="Where the window ends; it is one clip of the network long")
    times: list[float] = Field(default=[], description="When each picture was taken, ascending")
    sound_start: float = Field(default=0.0, description="When the first sample was taken")
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
