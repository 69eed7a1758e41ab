"""The page in a real browser: a clip goes up, its timeline is there and follows playback.

Chromium and its driver are Debian's packages; without them these tests are skipped by name.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from hicmae.__main__ import main
from hicmae.media.sound import read_sound
from hicmae.media.video import open_video
from hicmae.processes import VerbProcess
from hicmae.settings import ModelConfig
from tests.support.media_files import write_sound
from tests.support.page_fixtures import CLASSES
from tests.support.prediction_fixtures import talk, write_checkpoint

webdriver = pytest.importorskip("selenium.webdriver")

pytestmark = pytest.mark.slow

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--no-first-run",
    "--window-size=1200,1600",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",  # nobody is there to allow the camera
    "--use-fake-device-for-media-stream",
)
SECONDS = 120


@pytest.fixture(scope="module")
def address(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_config: ModelConfig, yunet_file: Path
) -> Iterator[str]:
    """Where a page is served."""
    folder = tmp_path_factory.mktemp("page")
    write_checkpoint(folder / "tiny-network", tiny_model_config, names=CLASSES)
    uploads = folder / "uploads"
    uploads.mkdir()
    words = ["--checkpoint", str(folder / "tiny-network"), "--port", "0", "--limits.seconds", "60"]
    environment = {**os.environ, "HICMAE_YUNET": str(yunet_file), "TMPDIR": str(uploads)}
    server = VerbProcess(words, environment, f"{__name__}:serve")
    try:
        line = next(line for line in server.output if line.startswith(b"open "))
        assert list(uploads.glob("hicmae-page-*"))
        yield line.split()[1].decode()
        assert not [path for path in uploads.rglob("*") if path.is_file()]
        server.signal(signal.SIGTERM)
        assert server.wait(30) is not None
    finally:
        server.kill()
    assert not list(uploads.glob("hicmae-page-*"))


def serve(words: list[str]) -> int:
    """``hicmae serve`` in a forked process, where the folder for uploads was known before."""
    tempfile.tempdir = os.environ["TMPDIR"]
    return main(["serve", *words])


@pytest.fixture(scope="module")
def browser(clips_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window; its camera and its microphone play somebody who talks."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("chromium and chromedriver are absent (apt-get install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    picture, sound = camera_files(
        clips_dir / "talking" / "marlin_video01.mp4", tmp_path_factory.mktemp("camera")
    )
    camera = f"--use-file-for-fake-video-capture={picture}"
    for flag in (*FLAGS, camera, f"--use-file-for-fake-audio-capture={sound}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    made.set_script_timeout(SECONDS)
    yield made
    made.quit()


def camera_files(video: Path, folder: Path) -> tuple[Path, Path]:
    """A recording in the forms that Chromium's fake camera and microphone play, over and over."""
    reader = open_video(video)
    with av.open(folder / "camera.mjpeg", "w", format="mjpeg") as out:
        stream = out.add_stream("mjpeg", rate=25, options={"qscale": "3"})
        stream.width, stream.height, stream.pix_fmt = reader.width, reader.height, "yuvj420p"
        for pixels in reader.frames(range(len(reader))):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))
    reader.close()
    sound = read_sound(video, sample_rate=48000).samples / 32768
    return folder / "camera.mjpeg", write_sound(folder / "microphone.wav", sound, 48000)


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, loaded; what the browser complains of is an error of the test."""
    browser.get(address)
    until(browser, lambda: "parameters" in text(browser, "model"))
    yield browser
    complaints = [
        entry["message"]
        for entry in browser.get_log("browser")
        if entry["level"] in ("SEVERE", "WARNING") and "decode" not in entry["message"].lower()
    ]
    assert complaints == []


def until(browser: Any, condition: Callable[[], bool]) -> None:
    """Wait for what the page does next."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, SECONDS).until(lambda _: condition())


def part(page: Any, id: str) -> Any:
    return page.find_element("id", id)


def text(page: Any, id: str) -> str:
    return str(part(page, id).text)


def give(page: Any, file: Path) -> str:
    """Give a file, and wait; what came: ``result`` or ``error``."""
    part(page, "file").send_keys(str(file))
    return settled(page)


def settled(page: Any) -> str:
    """Wait for a result or an error."""
    shown = ("result", "error")
    until(page, lambda: any(part(page, id).is_displayed() for id in shown))
    return next(id for id in shown if part(page, id).is_displayed())


def test_a_clip_goes_up_and_its_timeline_follows_playback(page: Any, clips_dir: Path) -> None:
    assert give(page, clips_dir / "talking" / "marlin_video01.mp4") == "result"
    assert text(page, "result-title") == "marlin_video01.mp4"
    lines = page.find_elements("css selector", "#timeline .line")
    assert len(lines) == len(CLASSES)
    assert all(len(line.get_attribute("points").split()) > 5 for line in lines)
    # A label is text, whatever is in it.
    names = [bar.text for bar in page.find_elements("css selector", "#now .name")]
    assert names == CLASSES
    cards = [card.text for card in page.find_elements("css selector", "#side-by-side h4")]
    assert cards == ["Picture and sound", "Picture alone", "Sound alone"]
    assert "picture alone" in text(page, "mattered")
    assert page.execute_script("return document.getElementById('fbank').naturalWidth") > 500
    until(
        page, lambda: page.execute_script("return document.getElementById('player').duration > 5")
    )

    def places() -> tuple[float, ...]:
        script = """const at = (id) => document.getElementById(id).getBoundingClientRect();
        return [document.getElementById('player').currentTime,
                document.querySelector('#timeline .head').getBoundingClientRect().left,
                at('box').left, at('fbank-head').left];"""
        return tuple(page.execute_script(script))

    before = places()
    assert part(page, "box").is_displayed()
    # A click at three quarters of the timeline goes there.
    svg = page.find_element("css selector", "#timeline svg")
    width = svg.size["width"]
    webdriver.ActionChains(page).move_to_element_with_offset(svg, width // 4, 0).click().perform()
    until(page, lambda: abs(places()[0] / 10 - 0.75) < 0.08)
    after = places()
    assert after[1] - before[1] == pytest.approx(0.75 * width, abs=0.1 * width)
    assert after[3] - before[3] == pytest.approx(0.75 * width, abs=0.1 * width)
    assert after[2] != before[2]  # the box is where the face is now
    # The keyboard goes on by tenths of a second.
    part(page, "position").send_keys("\ue012" * 5)  # to the left
    until(page, lambda: places()[0] == pytest.approx(after[0] - 0.5, abs=0.06))
    assert part(page, "position").get_attribute("aria-valuetext").endswith(" s")
    after = places()
    # And playing moves everything on.
    page.execute_script("const p = document.getElementById('player'); p.muted = true; p.play();")
    until(page, lambda: places()[0] > after[0] + 0.3 and places()[1] > after[1])


def test_shares_have_their_own_axis_and_who_is_not_sure_says_so(page: Any) -> None:
    found = page.execute_async_script("""
        const done = arguments[0];
        import("/charts.js").then(({ axesOf, captionOf, frameFace, lyingOf, rangesOf,
          told }) => {
          const box = document.getElementById("box");
          const sides = [0.3, 0.7].map((x) => {
            frameFace(box, [x, 0.5, 0.1, 0.1, 0], "face", "#fff");
            return box.children[0].style.left;
          });
          const of = (...scales) => ({ scales, sizes: [1, 1.2, 90, 1e-4] });
          const names = ["joy", "valence", "pulse", "gain"];
          const each = of([1], [2], [3]);
          const sure = (min_confidence) => ({ task: "classification", heads: [], min_confidence });
          done([axesOf(names, each), rangesOf([[0.2, 0.8, 72, 5e-5]], names, each),
            rangesOf([[0.2, 0.8]], names.slice(0, 2), of([0, 1])),
            rangesOf([[0.2, 4.5]], names.slice(0, 2), of([0, 1])),
            rangesOf(Array(500000).fill([-2]), ["a"], of([0])),
            ...[0.5, 0.7].map((least) => captionOf(["a", "b"], [0.4, 0.6], [], sure(least))[0]),
            captionOf(["a", "b", "c"], [-0.001, -0.01, 5e-5], [[-1, 1], [0, 72], [-1e-4, 1e-4]],
              { task: "regression" })[0],
            told(0.0123, 0.05), told(0.1234, 0.6, 3),
            ...sides, lyingOf("0.22", "0.22"), lyingOf("0.22", "0.2"), lyingOf("0.9", "1.0")]);
        });""")
    lying = ["equally near to both", "nearer to the sound", "nearer to the picture"]
    told = ["a 0.00  b -0.01  c 5.0e-5", "0.012", "0.123", "-3px", "auto"]
    own = [[0, 1], [-1, 1], [0, 72], [-1e-4, 1e-4]]
    assert found[:2] == [[[0], [1], [2], [3]], own]
    assert found[2:5] == [[[-1, 1]] * 2, [[0, 4.5]] * 2, [[-2, 2]]]
    assert found[5:] == ["b 0.60", "not sure", *told, *lying]


def test_lines_of_many_outputs_are_told_apart_and_long_names_are_whole(page: Any) -> None:
    looks, cut, over, times, rows = page.execute_async_script("""
        const done = arguments[0];
        import("/charts.js").then(({ Timelines, bars, legend }) => {
          const places = [...Array(30).keys()], row = places.map(() => 0.5);
          const labels = places.map((number) => `a head of a long name.output ${number}`);
          const ranges = row.map(() => [0, 1]), box = document.createElement("div");
          const made = ["legend", "timeline", "now", "strip"].map((className) =>
            Object.assign(document.createElement("div"), { className }));
          box.style.width = "20rem";
          box.append(...made);
          document.body.append(box);
          legend(made[0], labels);
          new Timelines(made[1], { labels, windows: [{ start: 0, end: 1, both: row }], kind: "both",
            seconds: 60, zero: 60, ranges, axes: [places], onSeek: () => {} });
          made[2].append(...bars(labels, row, ranges, -1));
          made[3].append(...row.slice(0, 8).map(() => document.createElement("img")));
          const look = (part) => { const style = getComputedStyle(part);
            return style.stroke + style.strokeDasharray + style.background; };
          const all = (what) => [...box.querySelectorAll(what)];
          done([["i", ".line"].map((what) => new Set(all(what).map(look)).size),
            all(".name").filter((name) => name.scrollWidth > name.clientWidth).length,
            getComputedStyle(all(".value")[0]).backgroundColor,
            all(".time").map((label) => label.textContent),
            new Set(all("img").map((frame) => frame.offsetTop)).size]);
        });""")
    assert (looks, cut) == ([30, 30], 0)
    assert over == "rgba(0, 0, 0, 0)", "what stands over the lines hides none"
    assert times == [f"{time} s" for time in range(-60, 0, 10)], "the last minute ends now"
    assert rows == 1, "frames of a reconstruction stand below those of the original"


def test_a_long_caption_is_in_lines_and_none_is_cut_off(page: Any) -> None:
    """Of several heads the first was out of sight."""
    found = page.execute_async_script("""
        const done = arguments[0];
        import("/charts.js").then(({ frameFace }) => {
          for (const id of ["result", "stage-area"]) document.getElementById(id).hidden = false;
          const box = document.getElementById("box"), screen = box.parentElement;
          screen.style.cssText = "width: 400px; height: 300px";
          done([0.2, 0.8].flatMap((x) => [0.15, 0.7].flatMap((y) => {
            frameFace(box, [x, y, 0.2, 0.2, 0], "heads: joy; ".repeat(9), "#fff");
            const [label, all] = [box.children[0], screen].map((e) => e.getBoundingClientRect());
            return [label.left - all.left, label.top - all.top, all.right - label.right];
          })));
        });""")
    assert min(found) > -4


def test_a_corrupt_clip_is_named_with_its_cause_and_the_page_goes_on(
    page: Any, clips_dir: Path
) -> None:
    assert give(page, clips_dir / "awkward" / "corrupted.mp4") == "error"
    assert text(page, "error").startswith("corrupted.mp4: ")
    assert "decode" in text(page, "error")
    assert part(page, "error").get_attribute("role") == "alert"
    assert not part(page, "working").is_displayed()
    assert give(page, clips_dir / "awkward" / "eamm_happy.mp4") == "result"
    assert not part(page, "error").is_displayed()


# Answers to uploads wait in ``held`` until they are let go; ``ended`` counts those that were, a
# moment later, and ``asked`` lists all else that is asked for.
HOLD = """const given = window.fetch;
window.held = []; window.asked = []; window.ended = 0;
window.fetch = async (path, options) => {
  const answer = await given(path, options);
  if (options?.method === "POST") {
    await new Promise((resolve) => window.held.push(resolve));
    setTimeout(() => { window.ended += 1; }, 1000);
  } else if (path !== "/api/model") window.asked.push(path);
  return answer;
};"""


def test_what_is_cancelled_while_it_is_sent_shows_nothing(page: Any, tmp_path: Path) -> None:
    page.execute_script(HOLD)
    file = write_sound(tmp_path / "a.wav", talk(1.0), 48000)
    part(page, "file").send_keys(str(file))
    until(page, lambda: page.execute_script("return held.length") == 1)
    part(page, "cancel").click()
    page.execute_script("held[0]()")
    until(page, lambda: page.execute_script("return ended") == 1)
    assert page.execute_script("return asked") == []
    assert not any(part(page, id).is_displayed() for id in ("working", "result", "error"))
    page.execute_script("setInterval(() => held.at(-1)())")
    assert give(page, file) == "result"


def test_a_recording_that_is_given_instead_of_another_stays(page: Any, tmp_path: Path) -> None:
    page.execute_script(HOLD)
    for number, name in enumerate(("first.wav", "second.wav"), start=1):
        part(page, "file").send_keys(str(write_sound(tmp_path / name, talk(1.0), 48000)))
        until(page, lambda number=number: page.execute_script("return held.length") == number)
    page.execute_script("held[1]()")
    assert settled(page) == "result"
    page.execute_script("held[0]()")  # the first one's upload took longer
    until(page, lambda: page.execute_script("return ended") == 2)
    assert text(page, "result-title") == "second.wav"
    assert not part(page, "working").is_displayed()


# The program as started anew, with other labels: ``lost`` questions how it goes are not answered,
# then it may be ``broken``; ``dropped`` are the recordings that were given up.
ANEW = """const given = window.fetch;
Object.assign(window, { lost: 3, broken: false, dropped: [] });
window.fetch = async (path, options) => {
  if (options?.method === "DELETE") dropped.push(path);
  if (path.startsWith("/api/jobs/") && !options?.method) {
    if (lost-- > 0) throw new TypeError("lost");
    if (broken) return new Response("{}", { status: 500 });
  }
  const answer = await given(path, options);
  const said = (await answer.text()).replaceAll('"anger"', '"rage"');
  return new Response(said || null, { status: answer.status });
};"""


def test_a_program_started_anew_is_asked_what_it_is_and_lost_answers_are_asked_for_again(
    page: Any, tmp_path: Path
) -> None:
    file = write_sound(tmp_path / "a.wav", talk(1.0), 48000)
    assert give(page, file) == "result"
    page.execute_script(ANEW)
    page.execute_script("document.getElementById('result-title').textContent = ''")
    part(page, "file").send_keys(str(file))
    until(page, lambda: text(page, "result-title") == "a.wav" or text(page, "error") != "")
    assert text(page, "error") == ""
    assert page.execute_script("return lost") < 0
    names = [bar.text for bar in page.find_elements("css selector", "#now .name")]
    assert names == ["rage", *CLASSES[1:]]
    assert "rage" in text(page, "model")
    page.execute_script("broken = true; dropped = []")
    part(page, "file").send_keys(str(file))
    until(page, part(page, "error").is_displayed)
    assert page.execute_script("return dropped.length") == 1, "else others wait for it"


def test_an_error_about_something_else_leaves_the_recording_in_work_in_sight(
    page: Any, tmp_path: Path
) -> None:
    page.execute_script("""
    const said = JSON.stringify({ id: "x", state: "running", stage: "Looking", share: 0.5 });
    const given = window.fetch;
    window.fetch = async (path, options) => path === "/api/model" ? given(path, options)
      : new Response(said);
    navigator.mediaDevices.getUserMedia = async () => { throw { name: "NotAllowedError" }; };""")
    part(page, "file").send_keys(str(write_sound(tmp_path / "a.wav", talk(1.0), 48000)))
    until(page, lambda: text(page, "stage") == "Looking …")
    part(page, "record-audio").click()
    until(page, part(page, "error").is_displayed)
    until(page, part(page, "cancel").is_displayed)
    part(page, "cancel").click()
    time.sleep(1.0)  # an answer that was on its way shows nothing again
    assert not part(page, "working").is_displayed()


def test_a_file_that_is_gone_when_it_is_sent_is_named(page: Any, tmp_path: Path) -> None:
    """Or a folder that was dropped: the program was said not to answer."""
    page.execute_script("""document.addEventListener("change", (event) => {
      window.taken = event.target.files[0];
      event.stopImmediatePropagation();
    }, { capture: true, once: true });""")
    file = write_sound(tmp_path / "gone.wav", talk(1.0), 48000)
    part(page, "file").send_keys(str(file))
    file.unlink()
    page.execute_script("""const dataTransfer = new DataTransfer();
    dataTransfer.items.add(taken);
    document.dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));""")
    assert settled(page) == "error"
    assert text(page, "error").startswith("gone.wav cannot be read: ")


def test_of_several_files_none_is_taken_silently_nor_what_is_no_file(page: Any) -> None:
    drop = """const dataTransfer = new DataTransfer();
    for (const name of arguments[0]) dataTransfer.items.add(new File(["x"], name));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));"""
    for names, said in ((["a.mp4", "b.mp4"], "2 files were dropped"), ([], "is no file")):
        page.execute_script(drop, names)
        assert said in text(page, "error")
        assert not part(page, "working").is_displayed()


def test_without_a_mouse_nothing_is_nameless_and_no_place_is_lost(
    page: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("no recording")

    def focus() -> str:
        return str(page.switch_to.active_element.get_attribute("id"))

    webdriver.ActionChains(page).send_keys(webdriver.Keys.TAB).perform()
    assert focus() == "file", "there is no result to skip to"
    page.execute_script("""navigator.mediaDevices.getUserMedia = async () => {
      await new Promise((resolve) => setTimeout(resolve, 300));
      throw { name: "NotAllowedError" };
    };""")
    for button in ("record-video", "record-audio", "live"):
        part(page, button).send_keys(webdriver.Keys.ENTER)
        until(page, lambda: "not allowed" in text(page, "error"))
        until(page, lambda button=button: focus() == button)
    page.execute_script(HOLD)
    part(page, "file").send_keys(str(tmp_path / "a.txt"))
    until(page, lambda: page.execute_script("return held.length") == 1)
    page.execute_script("document.getElementById('cancel').focus(); held[0]()")
    until(page, lambda: text(page, "error").startswith("a.txt: "))
    assert focus() == "file"
    page.execute_script("setInterval(() => held.at(-1)())")
    assert give(page, write_sound(tmp_path / "a.wav", talk(1.0), 48000)) == "result"
    page.find_element("css selector", "summary").click()
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if any(each["name"] == "focusable" for each in node.get("properties", ()))
    ]
    assert {"Video", "link", "button", "slider", "DisclosureTriangle"} <= {a for a, _ in controls}
    assert [role for role, name in controls if not name] == []
    link = page.find_element("css selector", "footer a")
    assert link.get_attribute("target") == "_blank", "going back from it, the result was lost"


# The browser asks for the camera until ``allow`` is called; ``given`` are the streams then.
ASK = """const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
window.given = [];
const asked = new Promise((resolve) => { window.allow = resolve; });
navigator.mediaDevices.getUserMedia = async (wanted) => {
  const stream = await ask(wanted);
  given.push(stream);
  await asked;
  return stream;
};"""


@pytest.mark.parametrize(("begin", "end"), [("live", "live-stop"), ("record-video", "record-drop")])
def test_no_camera_stays_on_that_was_asked_for_once_too_often_or_is_not_wanted_any_more(
    page: Any, begin: str, end: str
) -> None:
    page.execute_script(ASK)
    page.execute_script("document.getElementById(arguments[0]).click()", begin)
    if begin == "live":
        part(page, end).click()
    page.execute_script("document.getElementById(arguments[0]).click()", begin)  # a double click
    until(page, lambda: page.execute_script("return given.length > 0"))
    page.execute_script("allow()")
    until(page, part(page, end).is_displayed)
    time.sleep(1.0)
    part(page, end).click()
    live = (
        "return given.flatMap((s) => s.getTracks()).filter((t) => t.readyState === 'live').length"
    )
    until(page, lambda: page.execute_script(live) == 0)
    assert not part(page, "error").is_displayed()


def test_what_the_browser_cannot_play_is_shown_still(page: Any, clips_dir: Path) -> None:
    assert give(page, clips_dir / "talking" / "1001_DFA_ANG_XX.flv") == "result"
    until(page, lambda: part(page, "unplayable").is_displayed())
    assert part(page, "still").is_displayed()
    position = part(page, "position")
    position.send_keys(webdriver.Keys.END)
    assert float(position.get_attribute("value")) > 1.5
    assert not text(page, "now-time").startswith("0.0")


def test_a_recording_of_camera_and_microphone_goes_up(page: Any) -> None:
    part(page, "record-video").send_keys(webdriver.Keys.ENTER)
    until(page, lambda: text(page, "recorded").startswith("2"))
    assert part(page, "preview").is_displayed()
    page.switch_to.active_element.send_keys(webdriver.Keys.ENTER)  # stop
    assert settled(page) == "result"
    assert "face0" in text(page, "track") or not part(page, "track-choice").is_displayed()
    assert page.find_elements("css selector", "#timeline .line")
    assert text(page, "result-title").startswith("recording.")


def test_the_camera_is_looked_at_live_with_its_delay_and_stops(page: Any) -> None:
    part(page, "live").send_keys(webdriver.Keys.ENTER)
    # Three windows: the second one is a second after the first, whatever the machine does.
    lines = "return [...document.querySelectorAll('#live-timeline .line')].map("
    points = f"{lines}line => line.getAttribute('points').split(' ').length)"
    until(page, lambda: page.execute_script(points)[:1] >= [3])
    names = [bar.text for bar in page.find_elements("css selector", "#live-now .name")]
    assert names == CLASSES
    # A busy machine gives no pictures for a while.
    until(page, lambda: text(page, "live-by") == "by picture and sound")
    found = re.match(r"Delay (\S+) s \(median (\S+) s\), of which .* took (\S+) s", said(page))
    assert found is not None, said(page)
    delay, median, work = map(float, found.groups())
    # The work is that of the last window, which may be slower than the median of all of them.
    assert delay >= work > 0
    assert median > 0
    box = part(page, "live-box")
    until(page, box.is_displayed)
    script = """const at = (id) => document.getElementById(id).getBoundingClientRect();
    const [box, video] = [at('live-box'), at('live-video')];
    return [(box.left + box.width / 2 - video.left) / video.width, box.width / video.width];"""
    middle, width = page.execute_script(script)
    assert 0.2 < middle < 0.8
    assert 0.1 < width < 1
    page.switch_to.active_element.send_keys(webdriver.Keys.ENTER)  # stop
    assert not part(page, "live-view").is_displayed()
    assert page.execute_script("return document.getElementById('live-video').srcObject") is None
    assert part(page, "drop").is_displayed()
    assert page.switch_to.active_element.get_attribute("id") == "live"


def said(page: Any) -> str:
    return text(page, "live-delay")
