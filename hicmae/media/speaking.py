"""Who is speaking: how well the movements of a mouth go with a voice.

An open mouth shows its dark inside, and the lips part: both, less their slow changes, are held
against the loudness of the voice. Movements of the head drop out: the mouth is looked at in a
square that eyes and mouth hold in place, and the flow of the upper face is taken off that of the
lips. Nothing is learned from data; a laughing or chewing face, or one from the side, can mislead
it, and so can two people who talk at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

if TYPE_CHECKING:
    from hicmae.media.recording import Recording
    from hicmae.media.tracking import FaceTrack

# The square that is looked at, pixels; how far apart eyes and mouth are in it, and its parts: the
# inside of the mouth, the upper and the lower lip, the face from brows to nose (rows, columns).
_SIDE, _EYES_TO_MOUTH = 64, 0.42
_INSIDE, _FACE = np.s_[40:53, 25:39], np.s_[6:35, 13:51]
_UPPER, _LOWER = np.s_[36:44, 23:41], np.s_[47:59, 23:41]
_DARKEST = 10  # percentile: teeth and tongue are bright, and hide the rest
# Of the voice: its band in Hz (the vowels' first formants; what is below goes on while lips are
# closed, what is above hisses), and the power by which its energy is compressed.
_BAND_HZ, _COMPRESSION, _WINDOW_SECONDS = (300.0, 3000.0), 0.15, 0.08
_SLOW_SECONDS = 0.2  # syllables are faster: what is slower is another pose, or another phrase
# The mouth opens before it is heard; recordings are off by some frames. Seconds by which the sound
# may come before the mouth, and after it.
EARLY_SECONDS, LATE_SECONDS = 0.12, 0.16
_WIDEST_SECONDS = 1.0  # lags that are tried to see whether sound and picture have slipped
LEAST_SECONDS = 2.56  # less says little
# Of 31 clips of talking faces, 2 had less evidence than this, and 81 % of all pairs of a face and a
# stranger's voice. Beyond these lags (sound early, sound late) 5 % of the pairs had so much.
_APART_EVIDENCE, _SHIFTED_EVIDENCE, _SHIFTED_SECONDS = 2.5, 4.5, (0.2, 0.28)


class Agreement(NamedTuple):
    """How well a mouth goes with a voice.

    Args:
        evidence: At the best lag at which picture and sound may belong together: the correlation
            (Fisher's z) times the square root of the number of frames. Strangers reach 1.5 in the
            median and 3.5 in one of twenty clips.
        lag_seconds: By which the sound comes after the mouth, at the best of all lags up to 1 s.
        evidence_at_lag: Of that lag.
    """

    evidence: float
    lag_seconds: float
    evidence_at_lag: float


def verdict(found: Agreement, seconds: float) -> str:
    """What to think of a clip: ``shifted``, ``apart`` (another voice, or none of it), or "".

    Args:
        found: Of the clip.
        seconds: Its length; of less than ``LEAST_SECONDS`` nothing is said.
    """
    if seconds < LEAST_SECONDS - 0.02:
        return ""
    early, late = _SHIFTED_SECONDS
    if not -early <= found.lag_seconds <= late and found.evidence_at_lag >= _SHIFTED_EVIDENCE:
        return "shifted"
    return "apart" if found.evidence < _APART_EVIDENCE else ""


class Speakers:
    """The faces of a recording, or of a span of it, whose mouths are held against its sound.

    The recording is gone through once; what is kept are three numbers a frame and face.

    Args:
        recording: Opened.
        tracks: Its faces, with marks.

    Raises: MediaError: ``damaged``.
    """

    def __init__(self, recording: Recording, tracks: Sequence[FaceTrack]) -> None:
        self.tracks, self.fps = tracks, recording.fps
        meters = [_Meter(track) for track in tracks]
        wanted = np.zeros(len(recording.indices), dtype=bool)
        for track in tracks:
            wanted[track.first : track.first + len(track.boxes)] = True
        positions = np.flatnonzero(wanted)
        for position, frame in zip(positions.tolist(), recording.frames(positions), strict=True):
            for meter in meters:
                meter.see(position, frame)
        self._motion = [_quick(meter.motion, self.fps) for meter in meters]
        self._voice = np.zeros(len(recording.indices))

    def hear(self, cut: Callable[[int, int], np.ndarray], sample_rate: int) -> Speakers:
        """Take the sound that the mouths are held against; returns itself.

        Args:
            cut: Gives so many samples (n,) int16 of it, from a number on that counts from the first
                frame and may be negative; numbers ascend.
            sample_rate: Hz.
        """
        voice = loudness(cut, sample_rate, self.fps, len(self._voice))
        self._voice = _quick(voice[:, None], self.fps)[:, 0]
        return self

    def speaker(self, begin: int, end: int, *, among: Sequence[int] | None = None) -> int | None:
        """Number of the track that speaks in the frames ``begin`` to ``end``, None if none is seen.

        Where that is short, what is around it counts too. Of tracks ``among`` these alone, if they
        are given.
        """
        more = max(0, round(LEAST_SECONDS * self.fps) - (end - begin))
        seen = [
            number
            for number, track in enumerate(self.tracks)
            if track.first < end
            and track.first + len(track.boxes) > begin
            and (among is None or number in among)
        ]
        begin, end = begin - more // 2, end + more - more // 2
        return max(
            seen, key=lambda number: self.agreement(number, begin, end).evidence, default=None
        )

    def agreement(self, number: int, begin: int, end: int) -> Agreement:
        """How well a track goes with the voice in those of the frames in which it is seen."""
        track, fps = self.tracks[number], self.fps
        begin, end = max(begin, track.first), min(end, track.first + len(track.boxes))
        return agreement(
            self._motion[number][max(begin - track.first, 0) : max(end - track.first, 0)],
            self._voice,
            begin,
            fps,
        )


def loudness(
    cut: Callable[[int, int], np.ndarray], sample_rate: int, fps: float, num_frames: int
) -> np.ndarray:
    """The loudness of the voice in the middle of each of T frames: (T,); see ``Speakers``."""
    size = round(_WINDOW_SECONDS * sample_rate)
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    band = (frequencies >= _BAND_HZ[0]) & (frequencies < _BAND_HZ[1])
    shape, energy = np.hanning(size) / 32768, np.zeros(num_frames)
    for frame in range(num_frames):
        samples = cut(round((frame + 0.5) / fps * sample_rate) - size // 2, size)
        energy[frame] = (np.abs(np.fft.rfft(samples * shape)[band]) ** 2).sum()
    return np.asarray(energy**_COMPRESSION)


def agreement(seen: np.ndarray, voice: np.ndarray, begin: int, fps: float) -> Agreement:
    """Hold the movements of a mouth against a voice.

    Args:
        seen: (n, 2) of the mouth; of less than four frames nothing is known, and all is 0.
        voice: (T,) of the whole recording.
        begin: Frame of the recording with which ``seen`` begins.
        fps: Frames per second.
    """
    if len(seen) < 4:
        return Agreement(0.0, 0.0, 0.0)
    reach = round(_WIDEST_SECONDS * fps)
    lags = np.arange(-reach, reach + 1)
    padded = np.pad(voice, (reach, reach))
    heard = np.stack([padded[begin + reach + lag :][: len(seen)] for lag in lags.tolist()])
    z = np.arctanh(np.clip(_correlations(heard, seen), -0.99, 0.99)).mean(axis=1)
    z *= np.sqrt(len(seen))
    allowed = (lags >= -EARLY_SECONDS * fps - 1e-6) & (lags <= LATE_SECONDS * fps + 1e-6)
    widest = int(z.argmax())
    return Agreement(float(z[allowed].max()), float(lags[widest] / fps), float(z[widest]))


def _correlations(heard: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Of sounds (L, T) with movements (T, 2): (L, 2); 0 where something does not change."""
    heard = heard - heard.mean(axis=1, keepdims=True)
    seen = seen - seen.mean(axis=0)
    size = np.linalg.norm(heard, axis=1)[:, None] * np.linalg.norm(seen, axis=0)
    return (heard @ seen) / np.maximum(size, 1e-9)


def _quick(values: np.ndarray, fps: float) -> np.ndarray:
    """Values (T, K) less their slow changes."""
    return np.asarray(values - gaussian_filter1d(values, _SLOW_SECONDS * fps, axis=0))


class _Meter:
    """Looks at one mouth, frame after frame.

    Args: track: With marks.
    """

    def __init__(self, track: FaceTrack) -> None:
        assert track.marks is not None
        self.motion = np.zeros((len(track.marks), 2))
        self._first, marks = track.first, track.marks.astype(np.float64)
        self._middles, down = marks.mean(axis=1), marks[:, 1] - marks[:, 0]
        length = float(np.median(np.linalg.norm(down, axis=1)))
        self._scale = max(length, 1.0) / (_EYES_TO_MOUTH * _SIDE)
        self._angles = np.arctan2(-down[:, 0], down[:, 1])
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._before: np.ndarray | None = None

    def see(self, position: int, frame: np.ndarray) -> None:
        """Look at the frame (H, W, 3) uint8 of a position, if the face is in it."""
        place = position - self._first
        if not 0 <= place < len(self.motion):
            return
        patch = self._patch(frame, place)
        light = float(patch[_FACE].mean()) + 1
        self.motion[place, 0] = -np.percentile(patch[_INSIDE], _DARKEST) / light
        if self._before is not None:
            down = self._flow.calc(self._before, patch, None)[..., 1]
            parted = float(down[_LOWER].mean() - down[_UPPER].mean())
            self.motion[place, 1] = self.motion[place - 1, 1] + parted
        self._before = patch

    def _patch(self, frame: np.ndarray, place: int) -> np.ndarray:
        """The face (64, 64) in grey, eyes and mouth in their places."""
        cosine, sine = np.cos(self._angles[place]), np.sin(self._angles[place])
        turn = self._scale * np.array([[cosine, -sine], [sine, cosine]])
        # Only what is around the face is made grey and, where it is large, averaged.
        reach = self._scale * _SIDE
        corner = np.floor(self._middles[place] - reach).astype(int)
        low = np.clip(corner, 0, (frame.shape[1] - 1, frame.shape[0] - 1))
        high = np.clip(np.ceil(self._middles[place] + reach).astype(int), low + 1, None)
        part = cv2.cvtColor(frame[low[1] : high[1], low[0] : high[0]], cv2.COLOR_RGB2GRAY)
        middle = self._middles[place] - low
        shrink = 1 / max(1.0, self._scale)
        if shrink < 1:
            size = np.maximum(np.round(np.array(part.shape[::-1]) * shrink), 1).astype(int)
            factor = size / np.array(part.shape[::-1])
            part = cv2.resize(part, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA)
            turn, middle = turn * factor[:, None], middle * factor
        to_source = np.column_stack([turn, middle - turn @ np.full(2, _SIDE / 2)])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(
            part, to_source, (_SIDE, _SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
