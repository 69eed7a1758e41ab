"""One word on how far two preparations agree, and why it is not a better one.

For: ``compare.py``, whose docstring states the criteria for users. Not for: finding differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

IDENTICAL = "identical bytes"
SAME_CONTENT = "same content"
OTHER_ENCODING = "same samples, other encoding"
COMPARABLE = "comparable"
DIFFERENT = "different"

# Verdicts by which a result does not depend on which of the two was used.
SAME = (IDENTICAL, SAME_CONTENT)

# Settings by which the same sample is coded, or lies in shards, in another way.
ENCODING = frozenset({"face_size", "jpeg_quality", "chroma", "samples_per_shard"})
# Settings that decide which recordings become samples, or what their sound is called: what they
# did is seen in the samples themselves.
SELECTION = frozenset({"min_coverage", "min_seconds", "sound", "silence_db"})

MIN_SHARED = 0.95
MAX_RELABELLED = 0.01
MAX_RETIMED = 0.01
MAX_CLASS_SHARE = 0.05
MAX_DISTANCE = 0.1
MIN_PSNR_DB = 25.0
MAX_SHIFTED = 0.05

# How large an image is in bytes says how it was coded, and not what it shows.
_COMPARED = ("seconds", "face_pixels", "face_coverage", "loudness_db")


def judge(found: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Judge what ``compare_preparations`` found.

    Returns: the verdict, and what stands against the next better one.
    """
    digests = found["digests"]
    if digests["shards"] and digests["ordered_samples"]:
        return IDENTICAL, []
    if digests["content"]:
        return SAME_CONTENT, [_not_identical(found)]
    if reasons := list(_beyond_comparable(found)):
        return DIFFERENT, reasons
    if reasons := list(_beyond_encoding(found)):
        return COMPARABLE, reasons
    return OTHER_ENCODING, ["the bytes of the images differ"]


def _not_identical(found: Mapping[str, Any]) -> str:
    """Why shards of the same content are not the same bytes."""
    if "samples_per_shard" in found["configuration"]:
        return "samples are dealt to shards in another way"
    if not found["digests"]["faces"]:
        return "what is recorded of how faces were found differs"
    return "samples have another order, or recordings another name"


def _beyond_encoding(found: Mapping[str, Any]) -> Iterator[str]:
    """What differs besides the bytes of the images."""
    words = {
        "keys": "the keys differ",
        "time": "times differ",
        "sound": "the sound differs",
        "labels": "labels, speakers or splits differ",
        "faces": "faces were found otherwise",
    }
    for aspect, text in words.items():
        # Of other keys every digest differs: nothing more is known from that.
        if not found["digests"][aspect] and (aspect == "keys" or found["digests"]["keys"]):
            yield text
    if settings := sorted(found["configuration"].keys() - ENCODING):
        yield f"settings differ: {', '.join(settings)}"


def _beyond_comparable(found: Mapping[str, Any]) -> Iterator[str]:
    """What makes a result on one side say nothing about the other."""
    if settings := sorted(found["configuration"].keys() - ENCODING - SELECTION):
        yield f"settings that shape samples differ: {', '.join(settings)}"
    first, second = found["num_samples"]
    samples = found["samples"]
    shared = min(first, second) if samples is None else samples["num_shared"]
    share = shared / max(first, second)
    if share < MIN_SHARED:
        what = "as many samples" if samples is None else "samples in both"
        yield f"{what}: {share:.1%} of the larger side (at least {MIN_SHARED:.0%})"
    if samples is None:
        for name, label in found["classes"]["differing"].items():
            gap = label["largest_share_difference"]
            if gap > MAX_CLASS_SHARE:
                yield f"a class of {name} has another share by {gap:.1%} (at most 5%)"
    elif shared:
        yield from _beyond_in_samples(samples)
    for name in _COMPARED:
        distance = found["distributions"][name]["distance"]
        if distance is not None and distance > MAX_DISTANCE:
            yield f"{name} are spread otherwise: distance {distance:.2f} (at most {MAX_DISTANCE})"
        known = found["distributions"][name]["num"]
        if distance is None and max(known) > 0:
            yield f"{name} are known of one side only"
    if found["signals"] is not None:
        yield from _beyond_in_signals(found["signals"])


def _beyond_in_samples(samples: Mapping[str, Any]) -> Iterator[str]:
    shared = samples["num_shared"]
    if samples["num_relabelled"] / shared > MAX_RELABELLED:
        yield (
            f"{samples['num_relabelled']} of {shared} samples have another label, speaker or split "
            f"(at most {MAX_RELABELLED:.0%})"
        )
    if samples["num_retimed"] / shared > MAX_RETIMED:
        yield (
            f"{samples['num_retimed']} of {shared} samples differ by more than one frame "
            f"(at most {MAX_RETIMED:.0%})"
        )


def _beyond_in_signals(signals: Mapping[str, Any]) -> Iterator[str]:
    compared = len(signals["samples"])
    if compared and signals["num_shifted"] / compared > MAX_SHIFTED:
        yield (
            f"{signals['num_shifted']} of {compared} decoded samples are shifted in time "
            f"(at most {MAX_SHIFTED:.0%})"
        )
    psnr = signals["median_psnr_db"]
    if psnr is not None and psnr < MIN_PSNR_DB:
        yield f"pictures are {psnr:.1f} dB apart in the median (at least {MIN_PSNR_DB:g})"
