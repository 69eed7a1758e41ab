"""Readers of datasets: labels, folds, votes and people out of trees that imitate the releases."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pandas
import pytest

from shards.datasets import DATASETS, Item, Listing, ReadOptions, csv_list, find_dataset
from shards.datasets.base import Expected, check_files, official_folds, speaker_folds
from shards.datasets.tree import Tree, column, number, read_sheet
from shards.manifest import safe_key
from tests.support.dataset_trees import (
    TREES,
    crema_d,
    dfew,
    mafw_tree,
    medium,
    sheet,
    text,
)

Listings = dict[str, tuple[Path, Listing]]

WITH_FOLDS = [name for name in TREES if "fold" in DATASETS[name].columns]


def read(name: str, root: Path, **options: object) -> Listing:
    """A listing of a tree that was written there."""
    return check_files(root, DATASETS[name].read(root, ReadOptions(**options)))  # type: ignore[arg-type]


def by_key(listing: Listing) -> dict[str, Item]:
    """Items by their key, which must be unique."""
    keys = Counter(item.key for item in listing.items)
    assert not [key for key, count in keys.items() if count > 1]
    return {item.key: item for item in listing.items}


@pytest.fixture(scope="module")
def listings(tmp_path_factory: pytest.TempPathFactory) -> Listings:
    """Every imitated tree, written once, and what was read."""
    found = {}
    for name, write in TREES.items():
        root = tmp_path_factory.mktemp(name)
        write(root)
        found[name] = (root, read(name, root))
    return found


@pytest.mark.parametrize("name", sorted(TREES))
def test_every_file_of_a_listing_is_there_and_every_class_a_known_one(
    name: str, listings: Listings
) -> None:
    root, listing = listings[name]
    assert by_key(listing)
    for item in listing.items:
        assert (root / item.path).exists()
        assert item.audio is None or (root / item.audio).is_file()
        for label, classes in DATASETS[name].classes.items():
            assert item.labels[label] in (*classes, None)
    for label, classes in DATASETS[name].classes.items():
        assert {item.labels[label] for item in listing.items} - {None} == set(classes)
    used = {"split", *(label for item in listing.items for label in item.labels)}
    assert set(DATASETS[name].columns) <= used
    assert read(name, root) == listing  # the same tree gives the same listing


@pytest.mark.parametrize("name", WITH_FOLDS)
def test_no_speaker_is_in_two_folds(name: str, listings: Listings) -> None:
    folds = defaultdict(set)
    items = listings[name][1].items
    for item in items:
        if item.speaker is not None:
            folds[item.speaker].add(item.labels["fold"])
    assert all(len(found) == 1 for found in folds.values())
    known = {item.speaker for item in items} - {None}
    if name in ("mafw", "dfew"):
        assert not known  # these do not say who speaks
    else:
        assert len(known) > len({item.labels["fold"] for item in items})
    if name in ("iemocap", "msp-improv"):
        assert all(item.labels["fold"] == item.labels["session"] for item in items)


def test_crema_d_has_the_published_folds_people_and_votes(listings: Listings) -> None:
    items = by_key(listings["crema-d"][1])
    folds = {item.speaker: item.labels["fold"] for item in items.values()}
    assert [folds[str(actor)] for actor in (1001, 1018, 1019, 1054, 1055, 1072, 1073, 1091)] == (
        [1, 1, 2, 3, 4, 4, 5, 5]
    )
    anger = items["1018_DFA_ANG_XX"]
    assert anger.path == "VideoFlash/1018_DFA_ANG_XX.flv"
    assert anger.audio == "AudioWAV/1018_DFA_ANG_XX.wav"
    assert (anger.labels["age"], anger.labels["sex"]) == (38, "female")
    assert [anger.labels[f"votes_{name}"] for name in ("anger", "disgust", "sadness")] == [2, 1, 1]
    assert anger.labels["votes_audio_anger"] == 2
    assert anger.labels["votes_video_happiness"] == 2


def test_crema_d_counts_votes_of_the_tabulated_file_alike(tmp_path: Path) -> None:
    crema_d(tmp_path)
    (tmp_path / "finishedResponses.csv").unlink()
    head = ("", "A", "D", "F", "H", "N", "S", "fileName")
    rows = [
        ("100001", 0, 0, 0, 1, 10, 0, "1001_DFA_ANG_XX"),
        ("300001", 7, 0, 0, 0, 1, 0, "1001_DFA_ANG_XX"),
    ]
    sheet(tmp_path / "processedResults/tabulatedVotes.csv", head, rows)
    labels = by_key(read("crema-d", tmp_path))["1001_DFA_ANG_XX"].labels
    assert (labels["votes_anger"], labels["votes_audio_neutral"]) == (7, 10)
    assert labels["votes_video_anger"] == 0


def test_crema_d_whose_people_are_called_otherwise_is_refused(tmp_path: Path) -> None:
    crema_d(tmp_path)
    table = tmp_path / "VideoDemographics.csv"
    text(table, table.read_text().replace("ActorID", "Actor ID"))
    with pytest.raises(ValueError, match=r"no column ActorID .*did you mean 'Actor ID'"):
        read("crema-d", tmp_path)


def test_crema_d_leaves_out_what_the_published_lists_do_and_names_what_lacks(
    tmp_path: Path,
) -> None:
    crema_d(tmp_path)
    medium(tmp_path / "VideoFlash/1076_MTI_NEU_XX.flv")
    (tmp_path / "VideoFlash/1019_DFA_ANG_XX.flv").unlink()
    (tmp_path / "AudioWAV/1019_DFA_SAD_XX.wav").unlink()
    (tmp_path / "AudioMP3/1019_DFA_SAD_XX.mp3").unlink()
    listing = read("crema-d", tmp_path)
    assert listing.left_out == {"excluded by the published lists": ["1076_MTI_NEU_XX"]}
    assert listing.missing == {
        "no picture": ["1019_DFA_ANG_XX"],
        "no sound file": ["1019_DFA_SAD_XX"],
    }
    assert by_key(listing)["1019_DFA_SAD_XX"].audio is None
    assert "clips with fold 1: 12, 1451 fewer than documented (1463)" in listing.differences()


def test_the_whole_of_ravdess_meets_every_documented_number(listings: Listings) -> None:
    listing = listings["ravdess"][1]
    assert listing.differences() == []
    assert listing.num_missing == 0
    assert {cause: len(names) for cause, names in listing.left_out.items()} == {
        "no sound (modality 02)": 24,
        "no picture (modality 03)": 24,
        "song": 24,
    }
    item = by_key(listing)["01-01-06-02-01-02-12"]
    assert item.labels == {
        "emotion": "fearful",
        "intensity": "strong",
        "statement": 1,
        "repetition": 2,
        "sex": "female",
        "fold": 3,
    }


@pytest.mark.parametrize(
    ("name", "lacks", "cause", "named"),
    [
        ("ravdess", "Actor_07/01-01-03-01-01-01-07.mp4", "no picture", "01-01-03-01-01-01-07"),
        # Its ten turns are left out, and the dialogue is named once.
        (
            "iemocap",
            "Session3/dialog/avi/DivX/Ses03F_impro01.avi",
            "no video of the dialogue",
            "Ses03F_impro01.avi",
        ),
        ("dfew", "Clip/jpg_256/00009/00001.jpg", "no clip and no frames", "00009"),
    ],
)
def test_the_very_file_that_lacks_is_named_and_its_items_are_not_listed(
    name: str, lacks: str, cause: str, named: str, tmp_path: Path, listings: Listings
) -> None:
    TREES[name](tmp_path)
    (tmp_path / lacks).unlink()
    listing = read(name, tmp_path)
    assert listing.missing == {cause: [named]}
    gone = 10 if name == "iemocap" else 1
    assert len(listing.items) == len(listings[name][1].items) - gone
    if name == "iemocap":
        assert len(listing.left_out[cause]) == gone
    if name == "ravdess":
        assert "clips: 1439, 1 fewer than documented (1440)" in listing.differences()


def test_ravdess_pairs_silent_pictures_with_their_sound_where_both_are_apart(
    tmp_path: Path,
) -> None:
    TREES["ravdess"](tmp_path)
    for film in tmp_path.glob("Actor_*/01-01-*.mp4"):
        film.rename(film.with_name(f"02{film.name[2:]}"))
        medium(film.with_name(f"03{film.stem[2:]}.wav"))
    (tmp_path / "Actor_07/03-01-03-01-01-01-07.wav").unlink()
    listing = read("ravdess", tmp_path)
    assert listing.missing == {"no sound file (02-01-… without 03-01-…)": ["01-01-03-01-01-01-07"]}
    assert len(listing.items) == 1439
    item = by_key(listing)["01-01-06-02-01-02-12"]
    assert (item.path, item.audio) == (
        "Actor_12/02-01-06-02-01-02-12.mp4",
        "Actor_12/03-01-06-02-01-02-12.wav",
    )
    assert (item.labels["emotion"], item.labels["fold"]) == ("fearful", 3)
    assert {cause: len(names) for cause, names in listing.left_out.items()} == {
        "song": 24,
        "no sound (modality 02)": 1,
    }


@pytest.mark.parametrize(
    ("name", "path", "key"),
    [
        ("ravdess", "Actor_12/03-01-06-02-01-02-12.wav", "01-01-06-02-01-02-12"),
        ("crema-d", "AudioWAV/1001_DFA_ANG_XX.wav", "1001_DFA_ANG_XX"),
    ],
)
def test_a_copy_of_sound_alone_is_listed_as_such(
    name: str, path: str, key: str, tmp_path: Path
) -> None:
    TREES[name](tmp_path)
    for film in [*tmp_path.glob("*/*.mp4"), *tmp_path.glob("*/*.flv")]:
        film.rename(
            film.with_name(f"03{film.stem[2:]}.wav")
        ) if name == "ravdess" else film.unlink()
    listing = read(name, tmp_path)
    item = by_key(listing)[key]
    assert (item.path, item.audio) == (path, None)
    assert not listing.missing
    assert "the sound alone" in listing.notes[-1]
    assert not read(name, tmp_path, media="clips").items


def test_msp_improv_takes_perceived_labels_and_counts_raters(listings: Listings) -> None:
    listing = listings["msp-improv"][1]
    item = by_key(listing)["MSP-IMPROV-S01A-M04-S-FM02"]
    assert item.labels["emotion"] == "happiness"
    assert item.labels["intended"] == "anger"
    assert (item.speaker, item.labels["fold"], item.labels["sex"]) == ("M04", 4, "male")
    assert (item.labels["arousal"], item.labels["dominance"]) == (3.5, None)
    votes = [item.labels[f"votes_{name}"] for name in ("anger", "neutral", "other", "sadness")]
    assert votes == [2, 1, 1, 0]
    assert item.audio is not None
    assert item.audio.startswith("Audio/session4/")


def test_iemocap_looks_at_the_speaker_s_half_of_the_span(listings: Listings) -> None:
    items = by_key(listings["iemocap"][1])
    lead, other = items["Ses02M_impro01_M001"], items["Ses02M_impro01_F001"]
    assert (lead.region, other.region) == ("0 0 0.5 1", "0.5 0 1 1")
    assert (lead.start, lead.end) == (15.25, 19.5)
    assert lead.path == "Session2/dialog/avi/DivX/Ses02M_impro01.avi"
    assert lead.audio == "Session2/dialog/wav/Ses02M_impro01.wav"
    assert (lead.speaker, other.speaker) == ("Ses02M", "Ses02F")
    assert items["Ses02M_impro01_F002"].labels["emotion"] == "happiness"
    assert items["Ses02M_impro01_F002"].labels["emotion_original"] == "exc"
    # A rater with two tags of one class votes once for it; the actors' own answers do not count.
    votes = {name: lead.labels[f"votes_{name}"] for name in ("anger", "happiness", "neutral")}
    assert votes == {"anger": 0, "happiness": 1, "neutral": 1}


def test_mafw_serves_single_and_compound_labels_with_one_manifest(listings: Listings) -> None:
    items = by_key(listings["mafw"][1])
    assert len(items) == 220
    assert items["00012"].labels["emotion"] == "disgust"
    assert items["00012"].labels["compound"] == "anger_sadness"
    assert items["00042"].labels["compound"] == "anxiety_helplessness_disappointment"
    assert items["00220"].labels["compound"] is None  # in the single lists alone
    assert items["00220"].labels["compound_fold"] is None
    assert items["00003"].labels["votes_disgust"] == 1
    assert items["00003"].labels["gender_code"] == 1


def test_the_counts_of_mafw_are_those_of_all_clips_or_of_those_with_sound(
    listings: Listings,
) -> None:
    """A build with ``--sound required`` leaves 16 of one list out and 15 of the other."""
    expected = {item.what: (item.number, item.also) for item in listings["mafw"][1].expected}
    assert expected["clips with one of the 43 emotions"] == (8996, 8981)
    for place, whole in (("fold", (9172, 9156)), ("compound_fold", (8996, 8981))):
        folds = [expected[f"clips with {place} {fold}"] for fold in range(1, 6)]
        assert tuple(map(sum, zip(*folds, strict=True))) == whole


def test_mafw_reads_frames_and_names_those_without_sound(tmp_path: Path) -> None:
    mafw_tree(tmp_path)
    for clip in (tmp_path / "data/clips").iterdir():
        medium(tmp_path / f"data/frames/{clip.stem}/0001.png")
        if clip.stem != "00007":
            medium(tmp_path / f"data/audio_16k/{clip.stem}.wav")
    assert by_key(read("mafw", tmp_path))["00007"].path == "data/clips/00007.mp4"
    listing = read("mafw", tmp_path, media="frames")
    assert by_key(listing)["00007"].path == "data/frames/00007"
    assert by_key(listing)["00008"].audio == "data/audio_16k/00008.wav"
    (tmp_path / "data/clips/00007.mp4").unlink()
    assert read("mafw", tmp_path).missing == {"no sound file beside the frames": ["00007.wav"]}


def test_dfew_takes_no_frames_without_time(tmp_path: Path) -> None:
    dfew(tmp_path)
    (tmp_path / "Clip/jpg_256/00009/00001.jpg").unlink()
    medium(tmp_path / "Clip/original/9.mp4")
    item = by_key(read("dfew", tmp_path))["00009"]
    assert item.path == "Clip/original/9.mp4"
    assert item.labels["emotion"] == "neutral"


def test_images_that_no_build_reads_are_no_frames(tmp_path: Path) -> None:
    dfew(tmp_path)
    for path in [*tmp_path.glob("Clip/jpg_256/00001/*.jpg")]:
        path.rename(path.with_suffix(".webp"))
    listing = read("dfew", tmp_path)
    assert len(listing.items) == 69
    assert listing.missing["no clip and no frames"] == ["00001"]


def test_dfew_leaves_out_votes_that_belong_to_other_clips(tmp_path: Path) -> None:
    dfew(tmp_path)
    items = by_key(read("dfew", tmp_path))
    assert items["00009"].labels["votes_neutral"] == 7
    path = tmp_path / "Annotation/annotation.csv"
    lines = path.read_text().splitlines()
    shifted = [f"{place}{line[line.index(',') :]}" for place, line in enumerate(lines[1:], 2)]
    path.write_text("\n".join([lines[0], *shifted]))
    listing = read("dfew", tmp_path)
    assert "votes_neutral" not in by_key(listing)["00009"].labels
    assert any("the votes are left out" in note for note in listing.notes)


def test_dfew_reads_the_annotation_as_a_spreadsheet(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    dfew(tmp_path)
    path = tmp_path / "Annotation/annotation.csv"
    pandas.read_csv(path).to_excel(path.with_suffix(".xlsx"), index=False)
    path.unlink()
    assert by_key(read("dfew", tmp_path))["00009"].labels["votes_neutral"] == 7


def test_mer2023_keeps_parts_of_the_same_names_apart(listings: Listings) -> None:
    items = by_key(listings["mer2023"][1])
    train, test = items["train/sample_00000001"], items["test1/sample_00000001"]
    assert (train.split, test.split) == ("train", "test1")
    assert train.path == "mer2023train/train/sample_00000001.avi"
    assert test.path == "mer2023test/test1/sample_00000001.avi"
    assert test.labels == {"emotion": "angry", "valence": 0.1}


def test_a_list_of_labels_that_is_cut_off_leaves_out_its_last_row(tmp_path: Path) -> None:
    for name in ("a", "b"):
        medium(tmp_path / f"train/{name}.avi")
    text(tmp_path / "train-label.csv", "name,discrete,valence\na,happy,0.5\nb")
    listing = DATASETS["mer2023"].read(tmp_path, ReadOptions())
    assert [item.key for item in listing.items] == ["train/a"]
    assert listing.left_out == {"unknown label (empty)": ["train/b"]}


@pytest.mark.parametrize(
    ("name", "table", "head", "column"),
    [
        ("mer2023", "mer2023train/train-label.csv", "valence", "valence"),
        ("blemore", "train_metadata.csv", "fold", "fold"),
        ("blemore", "train_metadata.csv", "gender", "sex"),
        ("meld", "train_sent_emo.csv", "Season", "season"),
    ],
)
def test_a_column_is_found_in_any_case_and_noted_where_it_is_not_there(
    tmp_path: Path, name: str, table: str, head: str, column: str
) -> None:
    """A list with Fold in place of fold gave every recording of BLEMORE no fold, in silence."""
    TREES[name](tmp_path)
    path, listing = tmp_path / table, read(name, tmp_path)
    lines = path.read_text()
    text(path, lines.replace(head, head.swapcase(), 1))
    assert read(name, tmp_path) == listing
    text(path, lines.replace(head, "other", 1))
    (item, *_), notes = (other := read(name, tmp_path)).items, other.notes
    assert item.labels[column] is None
    assert notes == [*listing.notes, f"{path.name}: no column {head.lower()}"]


def test_labels_with_decimal_commas_are_the_numbers_they_say(tmp_path: Path) -> None:
    """Spreadsheets of many languages save CSV so; a label that was none was lost in silence."""
    text(tmp_path / "train-label.csv", "name;discrete;valence\r\na;sad;-1,25\r\nb;sad;2\r\n")
    for name in ("a", "b"):
        medium(tmp_path / f"train/{name}.avi")
    listing = read("mer2023", tmp_path)
    assert [item.labels["valence"] for item in listing.items] == [-1.25, 2.0]


@pytest.mark.parametrize("given", [False, True])
def test_labels_with_decimal_commas_between_commas_are_refused(tmp_path: Path, given: bool) -> None:
    """0,5 was an arousal of 0 and a valence of 5."""
    medium(tmp_path / "01_01_100.mp4")
    lines = "name,arousal,valence,dominance\n01_01_100,0,5,0,3,0,2\n"
    table = text(tmp_path / "labels.csv", lines)
    with pytest.raises(ValueError, match=r"labels.csv line 2: 7 cells under 4 columns; quote"):
        read("werewolf-xl", tmp_path, **({"labels": table} if given else {}))
    text(tmp_path / "train-label.csv", "name,discrete,valence\na,sad,-1,25\n")
    with pytest.raises(ValueError, match=r"train-label.csv line 2: 4 cells under 3 columns"):
        read("mer2023", tmp_path)


def test_werewolf_xl_puts_six_sessions_into_a_fold(listings: Listings) -> None:
    items = by_key(listings["werewolf-xl"][1])
    assert len(items) == 60
    folds = {item.labels["session"]: item.labels["fold"] for item in items.values()}
    assert [folds[session] for session in (1, 6, 7, 24, 25, 30)] == [1, 1, 2, 4, 5, 5]
    item = items["30_02_102"]
    assert item.path == "openface/30_02_102/30_02_102_aligned"
    assert item.audio == "audio_16k/30_02_102.wav"
    assert (item.labels["arousal"], item.labels["valence"]) == (1.0, 0.0)
    assert item.labels["dominance"] == 1.0


def test_werewolf_xl_reads_names_as_windows_writes_them(tmp_path: Path) -> None:
    werewolf = "VideoName,arousal,valence,dominance\nD:\\ww\\01_01_100.mp4,0.5,0.5,0.5\n"
    medium(tmp_path / "01_01_100.mp4")
    text(tmp_path / "labels.csv", werewolf)
    assert list(by_key(read("werewolf-xl", tmp_path))) == ["01_01_100"]


def test_two_tables_of_werewolf_xl_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """Of two versions of the labels the one that came last by its name was taken in silence."""
    medium(tmp_path / "01_01_100.mp4")
    for name, arousal in (("a", 0.5), ("b", 0.5), ("c", 0.75)):
        rows = [("01_01_100", arousal, 0.5, 0.5)]
        sheet(tmp_path / f"{name}.csv", ("name", "arousal", "valence", "dominance"), rows)
    with pytest.raises(ValueError, match=r"b.csv and c.csv have other values of 1 turn.*--labels"):
        read("werewolf-xl", tmp_path)
    (item,) = read("werewolf-xl", tmp_path, labels=tmp_path / "a.csv").items
    assert item.labels["arousal"] == 0.5


def test_avcaffe_tests_the_twenty_people_of_its_repository(listings: Listings) -> None:
    listing = listings["avcaffe"][1]
    sides = {item.speaker: item.split for item in listing.items}
    assert {person for person, side in sides.items() if side == "test"} == {
        "aiim001",
        "aiim002",
        "aiim043",
    }
    item = by_key(listing)["aiim003/task_2/aiim003_task_2_001"]
    assert (item.labels["arousal"], item.labels["valence"]) == ("wide-awake", "pleased")
    assert item.labels["video"] == "aiim003_task_2"
    assert item.labels["mental_demand"] == 4
    assert any("1 of the segments" in note for note in listing.notes)


def test_voxceleb2_pairs_pictures_and_sound(listings: Listings) -> None:
    listing = listings["voxceleb2"][1]
    items = by_key(listing)
    item = items["id00012/21Uxsk56VDQ/00000"]
    assert item.audio == "dev/aac/id00012/21Uxsk56VDQ/00000.m4a"
    assert (item.speaker, item.split, item.labels["sex"]) == ("id00012", "train", "male")
    assert items["id00017/21Uxsk56VDQ/00000"].split == "test"
    assert listing.missing == {
        "no sound file": ["train/id00012/21Uxsk56VDQ/00001"],
        "sound without its video": ["train/id00015/21Uxsk56VDQ/00099"],
    }


def test_voxceleb2_finds_its_table_of_people_in_a_folder(tmp_path: Path) -> None:
    TREES["voxceleb2"](tmp_path)
    (tmp_path / "meta").mkdir()
    (tmp_path / "vox2_meta.csv").rename(tmp_path / "meta/vox2_meta.csv")
    listing = read("voxceleb2", tmp_path)
    assert {item.labels["sex"] for item in listing.items} == {"male", "female", None}
    assert not listing.notes
    (tmp_path / "meta/vox2_meta.csv").unlink()
    assert read("voxceleb2", tmp_path).notes == ["no vox2_meta.csv: no sex"]


def test_a_table_of_one_s_own_is_dealt_to_folds_by_speaker(tmp_path: Path) -> None:
    rows = [
        (f"{speaker}/{take}.mp4", speaker, "joy")
        for speaker, takes in (("a", 5), ("b", 3), ("c", 2), ("d", 1))
        for take in range(takes)
    ]
    for path, *_ in rows:
        medium(tmp_path / path)
    table = sheet(tmp_path / "list.csv", ("path", "speaker", "emotion"), rows)
    listing = read("csv", tmp_path, labels=table, num_folds=2)
    folds = {item.speaker: item.labels["fold"] for item in listing.items}
    assert folds == {"a": 1, "b": 2, "c": 2, "d": 1}
    (tmp_path / "a/0.mp4").unlink()
    assert read("csv", tmp_path, labels=table).missing == {"no such file": ["a/0.mp4"]}


def test_rows_of_one_recording_and_of_one_name_get_keys_of_their_own(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv"):
        medium(tmp_path / name)
    rows = [("a.mp4", 0, 1), ("a.mp4", 1, 2), ("a.mkv", "", "")]
    table = sheet(tmp_path / "list.csv", ("path", "start", "end"), rows)
    assert list(by_key(read("csv", tmp_path, labels=table))) == ["a", "a_2", "a_3"]


def test_a_dot_in_the_name_of_a_folder_begins_no_suffix(tmp_path: Path) -> None:
    for name in ("v1.0/a/1.jpg", "v1.0/b/1.jpg", "v1.0/c.mp4"):
        medium(tmp_path / "in" / name)
    paths = ["v1.0/a", "../in/v1.0/b", "v1.0/c.mp4", "."]
    table = sheet(tmp_path / "list.csv", ("path",), [(path,) for path in paths])
    keys = list(by_key(read("csv", tmp_path / "in", labels=table)))
    assert keys == ["v1.0/a", "../in/v1.0/b", "v1.0/c", "."]  # made safe as all others are


def test_keys_of_many_spans_of_one_recording_are_found_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    medium(tmp_path / "a.mp4")
    rows = [("a.mp4", begin, begin + 1) for begin in range(300)]
    table = sheet(tmp_path / "list.csv", ("path", "start", "end"), rows)
    asked = Counter[str]()

    def counted(key: str) -> str:
        asked["keys"] += 1
        return safe_key(key)

    monkeypatch.setattr(csv_list, "safe_key", counted)
    assert len(by_key(read("csv", tmp_path, labels=table))) == 300
    assert asked["keys"] < 2000, "as many as there are spans, and not their square"


def test_clips_that_no_list_names_are_counted(tmp_path: Path) -> None:
    msp = "MSP-IMPROV-S02A-F01-R-FM01"
    for name, stray, cause, key in (
        ("mafw", "data/clips/09999.mp4", "in no list", "09999"),
        ("dfew", "Clip/original/9999.mp4", "in no list of single labels", "09999"),
        ("mer2023", "mer2023train/train/sample_1.avi", "not labelled", "train/sample_1"),
        ("msp-improv", f"Video/session1/S02A/R/{msp}.avi", "not in the evaluation file", msp),
        ("werewolf-xl", "01_03_400.mp4", "not labelled", "01_03_400"),
    ):
        TREES[name](tmp_path / name)
        medium(tmp_path / name / stray)
        assert read(name, tmp_path / name).left_out[cause] == [key]


def test_tables_and_folds_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    medium(tmp_path / "a.mp4")
    table = sheet(tmp_path / "list.csv", ("path", "emotion"), [("a.mp4", "joy")])
    with pytest.raises(ValueError, match=r"1 rows have no speaker, the first is a\.mp4"):
        read("csv", tmp_path, labels=table, num_folds=2)
    table = sheet(tmp_path / "list.csv", ("path", "speaker", "fold"), [("a.mp4", "x", 1)])
    with pytest.raises(ValueError, match="has a column fold already"):
        read("csv", tmp_path, labels=table, num_folds=2)
    with pytest.raises(ValueError, match="3 folds of 2 speakers"):
        speaker_folds({"1": "x", "2": "y"}, 3)
    with pytest.raises(ValueError, match="no table is given"):
        read("csv", tmp_path)


@pytest.mark.parametrize("name", sorted(TREES))
def test_another_tree_gets_one_line_with_what_was_expected_and_found(
    name: str, tmp_path: Path
) -> None:
    text(tmp_path / "holiday/beach.txt", "sun")
    medium(tmp_path / "holiday.mp4")
    with pytest.raises(ValueError, match="expected") as caught:
        read(name, tmp_path)
    said = str(caught.value)
    assert "\n" not in said
    assert "found holiday, holiday.mp4" in said
    assert DATASETS[name].layout in said
    assert "--labels FILE" in said
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read(name, tmp_path / "absent")


def test_pointers_empty_files_and_broken_links_are_named_and_not_listed(tmp_path: Path) -> None:
    crema_d(tmp_path)
    flash = tmp_path / "VideoFlash"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 265922\n"
    (flash / "1001_DFA_ANG_XX.flv").write_bytes(pointer)
    (flash / "1001_DFA_DIS_XX.flv").write_bytes(b"")
    (flash / "1001_DFA_FEA_XX.flv").unlink()
    (flash / "1001_DFA_FEA_XX.flv").symlink_to(tmp_path / "nowhere.flv")
    (tmp_path / "AudioWAV/1001_DFA_HAP_XX.wav").write_bytes(b"")
    listing = read("crema-d", tmp_path)
    assert listing.missing == {
        "Git LFS pointer (run: git lfs pull)": ["VideoFlash/1001_DFA_ANG_XX.flv"],
        "empty file": ["VideoFlash/1001_DFA_DIS_XX.flv"],
        "unreadable or a broken link": ["VideoFlash/1001_DFA_FEA_XX.flv"],
        "sound: empty file": ["AudioWAV/1001_DFA_HAP_XX.wav"],
    }
    items = by_key(listing)
    assert "1001_DFA_ANG_XX" not in items
    assert items["1001_DFA_HAP_XX"].audio is None


def test_a_copy_that_was_unpacked_twice_is_listed_once(tmp_path: Path) -> None:
    """A manifest that names a key twice is refused by the build, with a line for each."""
    for folder in ("a", "b"):
        TREES["iemocap"](tmp_path / folder)
    listing = read("iemocap", tmp_path)
    assert len(by_key(listing)) == 100
    assert {item.path.partition("/")[0] for item in listing.items} == {"a"}
    assert len(listing.left_out["there twice, the first is taken"]) == 100


@pytest.mark.parametrize("name", ["ravdess", "msp-improv", "mer2023"])
@pytest.mark.parametrize("whole", [True, False])
def test_of_two_copies_it_is_said_which_was_taken_and_that_is_no_empty_file(
    tmp_path: Path, name: str, whole: bool
) -> None:
    TREES[name](tmp_path / "b")
    for path in [*tmp_path.rglob("*.mp4"), *tmp_path.rglob("*.avi")]:
        other = tmp_path / "a" / path.relative_to(tmp_path / "b")
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(path.read_bytes() if whole else b"")
    listing = read(name, tmp_path)
    assert {item.path[0] for item in listing.items} == {"a" if whole else "b"}
    (note,) = [note for note in listing.notes if "in other copies too: " in note]
    taken, _, other = note.partition("copies too: ")[2].partition(" is taken, not ")
    assert taken[0] + other[0] == ("ab" if whole else "ba")
    assert taken[1:] == other[1:].partition(";")[0]


def test_a_second_table_that_says_something_else_is_named(tmp_path: Path) -> None:
    TREES["meld"](tmp_path)
    (tmp_path / "old").mkdir()
    for part in ("train", "dev"):
        said = (tmp_path / f"{part}_sent_emo.csv").read_bytes()
        other = said.replace(b"anger", b"joy") if part == "dev" else said
        (tmp_path / "old" / f"{part}_sent_emo.csv").write_bytes(other)
    (note,) = read("meld", tmp_path).notes
    assert note.startswith("1 files are below the root in other copies too: dev_sent_emo.csv is")


def test_two_rows_of_one_key_are_refused_with_their_lines(tmp_path: Path) -> None:
    medium(tmp_path / "a.mp4")
    medium(tmp_path / "b.mp4")
    table = text(tmp_path / "list.csv", "key,path\nx y,a.mp4\nx_y,b.mp4\n")
    with pytest.raises(ValueError, match="line 3: key 'x_y' is that of line 2"):
        read("csv", tmp_path, labels=table)


def test_files_of_face_boxes_that_are_not_there_are_named_too(tmp_path: Path) -> None:
    medium(tmp_path / "a.mp4")
    medium(tmp_path / "b.mp4")
    medium(tmp_path / "a.csv")
    table = text(tmp_path / "list.csv", "path,boxes\na.mp4,a.csv\nb.mp4,b.csv\n")
    listing = read("csv", tmp_path, labels=table)
    assert len(listing.items) == 2
    assert listing.missing == {"no such file of face boxes": ["b.csv"]}


def test_lists_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="a is tested in folds 1 and 2"):
        official_folds("X", {1: ({"a": "joy"}, None), 2: ({"a": "joy"}, None)})
    with pytest.raises(ValueError, match="a is in training and test of fold 1"):
        official_folds("X", {1: ({"a": "joy"}, {"a": "joy"}), 2: ({"b": "joy"}, None)})
    with pytest.raises(ValueError, match="no test list of fold 2"):
        official_folds("X", {1: ({"a": "joy"}, None), 3: ({"b": "joy"}, None)})
    folds, notes = official_folds(
        "X", {1: ({"a": "joy"}, {"b": "awe", "z": "joy"}), 2: ({"b": "awe"}, {"a": "joy"})}
    )
    assert folds == {"a": 1, "b": 2}
    _, (said,) = official_folds(
        "X", {1: ({"a": "joy"}, {"b": "joy"}), 2: ({"b": "awe"}, {"a": "joy"})}
    )
    assert "training list of fold 1 labels 1 clips otherwise than the list that tests" in said
    assert len(notes) == 1
    assert "1 clips of the training list of fold 1 are in no test list" in notes[0]


@pytest.mark.parametrize(
    ("name", "file", "line"),
    [
        ("mafw", "Train & Test Set/single/no_caption/set_1/test.txt", "00001.mp4 anger\n"),
        ("dfew", "EmoLabel_DataSplit/test(single-labeled)/set_1.csv", "1,5\n"),
        ("avcaffe", "ground_truths/arousal.txt", "aiim001_task_1, Calm\n"),
        ("msp-improv", "Evalution.txt", "\nUTD-IMPROV-S01A-F01-S-FM01.avi; S; A:3.5; V:2.2;\n"),
        ("werewolf-xl", "labels.csv", "01_01_101,0.9,0.9,0.5\n"),
        ("crema-d", "VideoDemographics.csv", "1001,41,Female,Asian,Not Hispanic\n"),
        ("mafw", "Labels/annotation.csv", "00001.mp4,0,9,9,9,9,9,9,9,9,9,9,9\n"),
        ("dfew", "Annotation/annotation.csv", "1,9,0,0,0,0,0,0,1\n"),
        ("mer2023", "mer2023train/train-label.csv", "sample_00000001,happy,0.1\n"),
        ("meld", "train_sent_emo.csv", "99,Oh,Ross,anger,neutral,0,1,4,7,,\n"),
        ("blemore", "test_metadata.csv", "A101_ang_int1_ver1,A101\n"),
    ],
)
def test_a_list_that_labels_a_recording_twice_is_refused(
    tmp_path: Path, name: str, file: str, line: str
) -> None:
    TREES[name](tmp_path)
    with (tmp_path / file).open("a") as whole:
        whole.write(line)
    with pytest.raises(ValueError, match=r"1 stands there twice, as .* and as .*; take out"):
        read(name, tmp_path)


def test_folds_by_speaker_do_not_depend_on_the_order_of_clips() -> None:
    speakers = {str(clip): f"s{clip * clip % 7}" for clip in range(60)}
    reverse = dict(reversed(list(speakers.items())))
    folds = speaker_folds(speakers, 3)
    assert folds == speaker_folds(reverse, 3)
    sizes = Counter(folds.values())
    assert max(sizes.values()) - min(sizes.values()) <= max(Counter(speakers.values()).values())


def test_a_difference_counts_items_and_people_and_knows_two_right_numbers() -> None:
    items = [Item(key=str(n), path="x", labels={"fold": n % 2}, speaker="s") for n in range(5)]
    expected = (
        Expected(what="clips", number=4),
        Expected(what="clips of fold 1", number=2, where={"fold": 1}),
        Expected(what="people", number=2, distinct="speaker"),
        Expected(what="clips, as listed", number=9, also=5),
    )
    assert Listing(items=items, expected=expected).differences() == [
        "clips: 5, 1 more than documented (4)",
        "people: 1, 1 fewer than documented (2)",
    ]


def test_a_tree_prefers_folders_and_lossless_sound_and_stops_at_loops(tmp_path: Path) -> None:
    for name in ("b/clip.mp4", "a/clip.mp4", "a/clip.mp3", "b/clip.wav", ".hidden/clip.mp4"):
        medium(tmp_path / name)
    (tmp_path / "a/again").symlink_to(tmp_path, target_is_directory=True)
    tree = Tree(tmp_path)
    assert tree.videos == {"clip": ["a/clip.mp4", "b/clip.mp4"]}
    assert tree.video("clip", prefer="b") == "b/clip.mp4"
    assert tree.video("clip", within="c") is None
    assert tree.sound("clip") == "b/clip.wav"


def test_sheets_are_read_by_name_and_their_faults_told(tmp_path: Path) -> None:
    path = text(tmp_path / "a.csv", '\ufeffName , Score\n"b, c" , 1\n\n')
    rows = read_sheet(path)
    assert rows == [{"Name": "b, c", "Score": "1"}]
    assert column(rows, ("name",), path) == "Name"
    assert [number(cell) for cell in ("1", "NaN", "inf", "x", "")] == [1.0, None, None, None, None]
    with pytest.raises(ValueError, match=r"no column scores \(found: Name, Score\); did you mean"):
        column(rows, ("scores",), path)
    with pytest.raises(ValueError, match="holds no table"):
        read_sheet(text(tmp_path / "b.csv", ""))
    cut_off = text(tmp_path / "cut.csv", "Name,Score\nb\nc,1\n")
    assert read_sheet(cut_off) == [{"Name": "b", "Score": ""}, {"Name": "c", "Score": "1"}]
    (tmp_path / "c.csv").write_bytes(b"Name\n\xff\n")
    with pytest.raises(ValueError, match=r"is no UTF-8 text .*; save it as UTF-8"):
        read_sheet(tmp_path / "c.csv")
    with pytest.raises(ValueError, match=r"no spreadsheet that can be read|needs the package"):
        read_sheet(medium(tmp_path / "d.xlsx"))


def test_an_unknown_dataset_gets_the_nearest_name() -> None:
    assert find_dataset("CREMA_D") is DATASETS["crema-d"]
    with pytest.raises(ValueError, match=r"no dataset 'ravdes'; did you mean 'ravdess'\?"):
        find_dataset("ravdes")
