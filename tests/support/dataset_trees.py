"""Trees that imitate datasets, with tiny files in place of media.

Each function writes what a release has, for a few people, with every class in every fold; a medium
is one byte.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from shards.datasets import avcaffe, cexpr, mafw, meld

SMALL_CREMA_ACTORS = (1001, 1018, 1019, 1036, 1037, 1054, 1055, 1072, 1073, 1091)


def medium(path: Path) -> Path:
    """A file that is there, not empty, and no copy of another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(str(path).encode())
    return path


def text(path: Path, content: str) -> Path:
    """A small text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def sheet(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
    return path


def crema_d(root: Path) -> None:
    """Ten actors, two of each fold, six emotions."""
    names = [
        f"{actor}_DFA_{emotion}_XX"
        for actor in SMALL_CREMA_ACTORS
        for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    ]
    for name in names:
        medium(root / f"VideoFlash/{name}.flv")
        medium(root / f"AudioWAV/{name}.wav")
        medium(root / f"AudioMP3/{name}.mp3")
    sheet(root / "SentenceFilenames.csv", ("Stimulus_Number", "Filename"), enumerate(names, 1))
    sheet(
        root / "VideoDemographics.csv",
        ("ActorID", "Age", "Sex", "Race", "Ethnicity"),
        [
            (actor, 20 + actor % 50, "Male" if actor % 2 else "Female", "Asian", "Not Hispanic")
            for actor in SMALL_CREMA_ACTORS
        ],
    )
    answers = [
        (name, query, letter)
        for name in names
        for query, letters in ((1, "AAN"), (2, "HH"), (3, "AASD"))
        for letter in letters
    ]
    sheet(root / "finishedResponses.csv", ("clipName", "queryType", "respEmo"), answers)


def ravdess(root: Path) -> None:
    """All of it: 1,440 recordings; beside them songs and what has no sound or picture."""
    for actor in range(1, 25):
        folder = root / f"Actor_{actor:02}"
        for emotion in range(1, 9):
            for intensity in (1, 2) if emotion > 1 else (1,):
                for statement in (1, 2):
                    for repetition in (1, 2):
                        tail = f"{emotion:02}-{intensity:02}-{statement:02}-{repetition:02}"
                        medium(folder / f"01-01-{tail}-{actor:02}.mp4")
        medium(folder / f"02-01-01-01-01-01-{actor:02}.mp4")
        medium(folder / f"03-01-01-01-01-01-{actor:02}.wav")
        medium(folder / f"01-02-01-01-01-01-{actor:02}.mp4")


def msp_improv(root: Path) -> None:
    """Six sessions of two speakers with four labels, others, and raters below each line."""
    lines = []
    for session in range(1, 7):
        for sex in "FM":
            for turn, letter in enumerate("AHNSOX", start=1):
                name = f"S01A-{sex}{session:02}-S-FM{turn:02}"
                folder = f"session{session}/S01A/S"
                medium(root / f"Video/{folder}/MSP-IMPROV-{name}.avi")
                medium(root / f"Audio/{folder}/MSP-IMPROV-{name}.wav")
                dominance = "3.0" if turn % 2 else "NaN"
                head = f"UTD-IMPROV-{name}.avi; {letter}; A:3.5; V:2.250000; D:{dominance} ; N:4.0;"
                raters = [
                    "W-1; Angry; Angry,Depressed; A:4.0; V:2.0; D:NaN; N:3.0;",
                    "W-2; Angry; Angry; A:4.0; V:2.0; D:NaN; N:3.0;",
                    "W-3; Neutral; Neutral; A:3.0; V:3.0; D:NaN; N:3.0;",
                    "W-4; Other; Proud (of it); A:3.0; V:3.0; D:NaN; N:3.0;",
                ]
                lines += [head, *raters, ""]
    text(root / "Evalution.txt", "\n".join(lines))


def iemocap(root: Path) -> None:
    """Five sessions with one dialogue each way; the last lines of a file have no agreement."""
    codes = ("ang", "hap", "exc", "neu", "sad", "fru", "xxx")
    for session in range(1, 6):
        folder = root / f"Session{session}/dialog"
        for lead in "FM":
            dialogue = f"Ses{session:02}{lead}_impro01"
            medium(folder / f"avi/DivX/{dialogue}.avi")
            medium(folder / f"wav/{dialogue}.wav")
            medium(root / f"Session{session}/sentences/wav/{dialogue}/{dialogue}_F000.wav")
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            for place, code in enumerate(codes):
                for speaker in "FM":
                    start = 10 * place + (speaker == "M") * 5
                    lines += [
                        f"[{start}.2500 - {start + 4}.5000]\t{dialogue}_{speaker}{place:03}\t{code}"
                        "\t[2.5000, 3.0000, 3.5000]",
                        "C-E1:\tHappiness; Excited;\t()",
                        "C-E2:\tNeutral;\t()",
                        "C-E4:\tFrustration;\t(bored)",
                        "C-F1:\tAnger;\t()",
                        "A-E3:\tval 2; act 4; dom  4;\t()",
                        "",
                    ]
            text(folder / f"EmoEvaluation/{dialogue}.txt", "\n".join(lines))
        text(folder / "EmoEvaluation/Categorical/Ses01F_impro01_e1_cat.txt", "not this")


def mafw_tree(root: Path) -> None:
    """Every class in every fold: 55 single labels, 215 compound ones, of which one has no clip."""
    data, lists = root / "data", root / "Train & Test Set"
    single = {f"{place:05}": mafw.CLASSES[place % 11] for place in range(1, 221)}
    compound = {f"{place:05}": mafw.COMPOUND_CLASSES[place % 43] for place in range(1, 216)}
    for labels, task, classes in ((single, "single", 11), (compound, "compound", 43)):
        for fold in range(1, 6):
            test = {k: v for k, v in labels.items() if (int(k) // classes) % 5 == fold - 1}
            train = {k: v for k, v in labels.items() if k not in test}
            for side, part in (("test", test), ("train", train)):
                lines = "".join(f"{clip}.mp4 {label}\n" for clip, label in part.items())
                text(lists / f"{task}/no_caption/set_{fold}/{side}.txt", lines)
    for clip in single:
        medium(data / f"clips/{clip}.mp4")
    head = ("clip", "invalid", *mafw.CLASSES)
    rows = [(f"{clip}.mp4", 0, *(place % 3 for place in range(11))) for clip in single]
    sheet(root / "Labels/annotation.csv", head, rows)
    text(root / "Labels(auto)/gender.txt", "".join(f"{clip}: 1\n" for clip in single))


def dfew(root: Path) -> None:
    """Frames with their sound apart, every class in every fold, and the annotators' answers."""
    labels = {place: place % 7 + 1 for place in range(1, 71)}
    for fold in range(1, 6):
        for side in ("test", "train"):
            rows = [
                (place, label)
                for place, label in labels.items()
                if ((place // 7) % 5 == fold - 1) == (side == "test")
            ]
            path = root / f"EmoLabel_DataSplit/{side}(single-labeled)/set_{fold}.csv"
            sheet(path, ("video_name", "label"), rows)
    for place in labels:
        medium(root / f"Clip/jpg_256/{place:05}/00001.jpg")
        medium(root / f"Clip/clip_224x224_16f/{place:05}/00001.jpg")
        medium(root / f"audio/{place:05}.wav")
    names = ("1happy", "2sad", "3neutral", "4angry", "5surprise", "6disgust", "7fear")
    rows = [
        (place, *(7 if code == label else 0 for code in range(1, 8)), label)
        for place, label in labels.items()
    ]
    sheet(root / "Annotation/annotation.csv", ("order", *names, "label"), rows)


def mer2023(root: Path) -> None:
    """Two parts whose clips have the same names, as those of the challenge may have."""
    emotions = ("neutral", "angry", "happy", "sad", "worried", "surprise")
    for part, folder in (("train", "mer2023train"), ("test1", "mer2023test")):
        rows = [(f"sample_{n:08}", emotions[n % 6], n / 10) for n in range(12)]
        sheet(root / f"{folder}/{part}-label.csv", ("name", "discrete", "valence"), rows)
        for name, *_ in rows:
            medium(root / f"{folder}/{part}/{name}.avi")


def werewolf_xl(root: Path) -> None:
    """Thirty sessions of two players, as folders of OpenFace with their sound apart."""
    rows = []
    for session in range(1, 31):
        for seat in (1, 2):
            name = f"{session:02}_{seat:02}_{100 + seat}"
            medium(root / f"openface/{name}/{name}_aligned/frame_det_00_000001.bmp")
            sheet(root / f"openface/{name}/{name}.csv", ("frame", "confidence"), [(1, 0.9)])
            medium(root / f"audio_16k/{name}.wav")
            rows.append((name, session / 30, 1 - session / 30, seat / 2))
    head = ("VideoName", "Arousal_average", "Pleasure_average", "Dominance_average")
    sheet(root / "labels.csv", head, rows)


def avcaffe_tree(root: Path) -> None:
    """Eight people of whom three are tested, five tasks each with every class, two segments."""
    people = [f"aiim{number:03}" for number in (1, 2, 3, 4, 5, 6, 43, 7)]
    lines: dict[str, list[str]] = {"arousal": [], "valence": [], "mental_demand": []}
    for person in people:
        for task in range(5):
            video = f"{person}_task_{task + 1}"
            for column, classes in avcaffe.CLASSES.items():
                lines[column].append(f"{video}, {classes[task].capitalize()}\n")
            lines["mental_demand"].append(f"{video}, {task * 4}\n")
            for segment in range(2):
                folder = root / f"videos/shorter_segments/{person}/task_{task + 1}"
                medium(folder / f"{video}_{segment:03}.avi")
    for name, content in lines.items():
        text(root / f"ground_truths/{name}.txt", "participant and task\n" + "".join(content))
    text(root / "info/no_audio_files.txt", "aiim001_task_1_000.avi\n")


def voxceleb2(root: Path) -> None:
    """Two dev people and a test person; one utterance lacks its sound, one sound its video."""
    for side, person, count in (
        ("dev", "id00012", 3),
        ("dev", "id00015", 2),
        ("test", "id00017", 1),
    ):
        for number in range(count):
            medium(root / f"{side}/mp4/{person}/21Uxsk56VDQ/{number:05}.mp4")
            medium(root / f"{side}/aac/{person}/21Uxsk56VDQ/{number:05}.m4a")
    (root / "dev/aac/id00012/21Uxsk56VDQ/00001.m4a").unlink()
    medium(root / "dev/aac/id00015/21Uxsk56VDQ/00099.m4a")
    head = "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set "
    text(root / "vox2_meta.csv", f"{head}\nid00012 ,n1 ,m ,dev \nid00015 ,n2 ,f ,dev ")


def meld_tree(root: Path) -> None:
    """Three parts whose dialogues have the same numbers; one clip lacks, one is in no table."""
    folders = ("train_splits", "dev_splits_complete", "output_repeated_splits_test")
    head = ("Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID")
    head += ("Utterance_ID", "Season", "Episode", "StartTime", "EndTime")
    for part, folder in zip(("train", "dev", "test"), folders, strict=True):
        rows = []
        for dialogue in range(2):
            for utterance, emotion in enumerate(meld.CLASSES):
                speaker = ("Ross", "Rachel", "All")[utterance % 3]
                mood = ("neutral", "positive", "negative")[utterance % 3]
                said = ("Oh, what?", speaker, emotion, mood, dialogue, utterance, 4, 7)
                rows.append((len(rows) + 1, *said, "00:20:57,256", "00:21:00,049"))
                if (part, dialogue, utterance) != ("train", 1, 6):
                    medium(root / f"{part}/{folder}/dia{dialogue}_utt{utterance}.mp4")
        sheet(root / f"{part}_sent_emo.csv", head, rows)
    medium(root / "test/output_repeated_splits_test/final_videos_testdia0_utt0.mp4")


def blemore_tree(root: Path) -> None:
    """Six actors with folds and one without: every emotion, and a blend in all proportions."""
    head = ("filename", "video_id", "gender", "mix", "emotion_1", "version", "intensity_level")
    head += ("situation", "emotion_2", "emotion_1_salience", "emotion_2_salience", "fold")
    rows: dict[str, list[Sequence[object]]] = {"train": [], "test": []}
    for number in range(7):
        actor, part = f"A{100 + number}", "train" if number < 6 else "test"
        names = [f"{actor}_{code}_int1_ver1" for code in ("ang", "disg", "fea", "hap", "sad")]
        names.append(f"{actor}_neu_sit2_ver1")
        names += [f"{actor}_mix_ang_hap_{share}_ver1" for share in ("50_50", "70_30", "30_70")]
        for name in names:
            medium(root / f"{part}/{name}.mov")
            rest = ("f" if number % 2 else "m", int("mix" in name), *[""] * 8)
            rows[part].append((name, actor, *rest[:9], number % 5 if part == "train" else ""))
    for part, lines in rows.items():
        sheet(root / f"{part}_metadata.csv", head, lines)


def cexpr_tree(root: Path) -> None:
    """Six videos with every class; in the first a span of two classes and one without any."""
    classes = [name.replace("_", " ").title() for name in cexpr.CLASSES]
    head = ("Begin Time - hh:mm:ss.ms", "End Time - hh:mm:ss.ms", *classes, "Other")
    for video in range(6):
        medium(root / f"videos/{video}-30-1920x1080.mp4")
        rows: list[Sequence[object]] = [
            (
                f"00:00:{2 * place:02}.000",
                f"00:00:{2 * place + 1:02}.500",
                *(1 if place == other else "" for other in range(8)),
            )
            for place in range(7)
        ]
        if video == 0:
            rows += [("00:00:20.000", "00:00:21.000", 1, 1, *[""] * 6)]
            rows += [("00:00:22.000", "00:00:23.000", *[""] * 7, 1)]
        sheet(root / f"annotation/{video}-30-1920x1080.csv", head, rows)


TREES: dict[str, Callable[[Path], None]] = {
    "voxceleb2": voxceleb2,
    "crema-d": crema_d,
    "ravdess": ravdess,
    "msp-improv": msp_improv,
    "iemocap": iemocap,
    "mafw": mafw_tree,
    "dfew": dfew,
    "mer2023": mer2023,
    "werewolf-xl": werewolf_xl,
    "avcaffe": avcaffe_tree,
    "meld": meld_tree,
    "blemore": blemore_tree,
    "c-expr-db": cexpr_tree,
}
