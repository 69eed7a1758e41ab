"""A corpus: which clips there are, what they are made from, and the files.

For: ``synthesize``. Not for: how a face looks or a voice sounds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import cv2
import pandas as pd
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shards.synthesis.plan import (
    ClipPlan,
    clip_frames,
    clip_sound,
    number_order,
    plan_clips,
    told_causes,
)
from shards.synthesis.render import write_clip
from shards.synthesis.settings import CorpusConfig
from shards.synthesis.speakers import draw_speaker

# What a clip's settings turn into; raised whenever a clip of the same settings changes.
_GENERATOR = 1


def synthesize(config: CorpusConfig, out: Path) -> Path:
    """Write a corpus: ``clips/<speaker>/*.mp4``, ``manifest.csv`` and ``corpus.json``.

    The manifest is written last, so a folder that has one is complete. A folder that already
    holds this very corpus is left as it is.

    Args:
        config: What the corpus contains.
        out: Folder, made if absent.

    Returns: the manifest's path. Its columns: path, speaker, pitch_hz, and if labelled: emotion,
        expression, voice, expression_strength, voice_strength, valence, arousal, fold.
    Raises: ValueError: the folder holds another corpus.
    """
    out = Path(out)
    manifest, facts = out / "manifest.csv", out / "corpus.json"
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is no folder; name a new one for the corpus")
    described = _describe(config)
    if facts.exists() and facts.read_text(encoding="utf-8") != described:
        raise ValueError(
            f"{out}: holds another corpus (see {facts.name}); choose a new folder, or delete it"
        )
    if manifest.exists():
        if not facts.exists():
            raise ValueError(f"{out}: holds a manifest of something else; choose a new folder")
        return manifest
    plans = plan_clips(config)
    rows = _manifest_rows(config, plans)
    paths = [out / str(row["path"]) for row in rows]
    for folder in sorted({path.parent for path in paths}):
        folder.mkdir(parents=True, exist_ok=True)
    _write_text(facts, described)
    _make_all(config, plans, paths)
    if not config.labelled:  # the order of the rows must not tell either
        rows.sort(key=lambda row: str(row["path"]))
    _write_text(manifest, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    return manifest


def _describe(config: CorpusConfig) -> str:
    """What the corpus is, as JSON; the number of workers is no part of it."""
    settings = {name: value for name, value in asdict(config).items() if name != "workers"}
    return json.dumps({"generator": _GENERATOR, **settings}, indent=2) + "\n"


def _make_all(config: CorpusConfig, plans: list[ClipPlan], paths: list[Path]) -> None:
    workers = _usable_cores() if config.workers is None else config.workers
    columns = (
        TextColumn("synthesize"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("clips"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("synthesize", total=len(plans))
        if workers == 0:
            for plan, path in zip(plans, paths, strict=True):
                _make_clip(plan, path, config)
                progress.advance(task)
            return
        # Spawned, not forked: the caller may hold threads (torch, OpenCV) that a fork would break.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_start_worker) as pool:
            chunk = max(1, min(16, len(plans) // (4 * workers)))
            for _ in pool.map(_make_clip, plans, paths, [config] * len(plans), chunksize=chunk):
                progress.advance(task)


def _make_clip(plan: ClipPlan, path: Path, config: CorpusConfig) -> None:
    write_clip(
        path,
        clip_frames(plan, config),
        clip_sound(plan, config),
        fps=config.fps,
        sample_rate=config.sample_rate,
    )


def _manifest_rows(config: CorpusConfig, plans: list[ClipPlan]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    names = _file_names(config, plans)
    for plan, name in zip(plans, names, strict=True):
        speaker = draw_speaker(config.seed, plan.speaker)
        row: dict[str, object] = {
            "path": f"clips/{speaker.name}/{name}.mp4",
            "speaker": speaker.name,
            "pitch_hz": round(speaker.voice_box.pitch_hz, 1),
        }
        if config.labelled:
            told = told_causes(plan, config)
            row |= {
                "emotion": told.emotion,
                "expression": plan.causes.expression,
                "voice": plan.causes.voice,
                "expression_strength": round(plan.causes.expression_strength, 6),
                "voice_strength": round(plan.causes.voice_strength, 6),
                "valence": round(told.valence, 6),
                "arousal": round(told.arousal, 6),
                "fold": (plan.speaker - config.first_speaker) % config.folds,
            }
        rows.append(row)
    return rows


def _file_names(config: CorpusConfig, plans: list[ClipPlan]) -> list[str]:
    """One name a clip; without labels it tells the speaker and a number, dealt at random."""
    if config.labelled:
        return [
            f"{draw_speaker(config.seed, p.speaker).name}_{p.causes.emotion}_{p.take}"
            for p in plans
        ]
    names = []
    for number in range(config.first_speaker, config.first_speaker + config.speakers):
        speaker = draw_speaker(config.seed, number).name
        names += [f"{speaker}_{position:03d}" for position in number_order(number, config)]
    return names


def _start_worker() -> None:
    cv2.setNumThreads(1)  # the pool already uses every core


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
