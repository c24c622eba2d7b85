"""The report: one file that needs nothing else, whatever the runs hold, and opens in a real browser."""

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from support.finished_runs import Runs
from unseen_diffusion.reports.comparison import compare
from unseen_diffusion.reports.html import load_runs, render, report_command
from unseen_diffusion.reports.html.galleries import BUDGET, LEAST, MOST, SHARES, gallery, plan
from unseen_diffusion.reports.html.naming import Names
from unseen_diffusion.reports.html.pictures import cost, picture, strip
from unseen_diffusion.reports.html.plots import combine, density
from unseen_diffusion.reports.html.scores import SCORES, Estimate, difference, marks, show
from unseen_diffusion.reports.html.tables import lines_of
from unseen_diffusion.reports.rows import three_digits
from unseen_diffusion.reports.tables import compact, load_results
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json, write_json

HOSTILE = "<script>alert('$\\frac{1')</script>\"&"


class Page(HTMLParser):
    """What tests ask of a page: its tags with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        """Every value of an attribute, in order."""
        return [value for _, attributes in self.tags if (value := attributes.get(name))]


def check_whole(text: str) -> Page:
    """Nothing is fetched, ids are unique and found, every picture has words and a whole-number magnification."""
    page = Page(text)
    targets = page.attributes("src") + page.attributes("href") + page.attributes("xlink:href")
    assert all(target.startswith(("data:image/png;base64,", "#")) for target in targets)
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", text))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes["alt"]
            width, height = decode(attributes["src"] or "").size
            assert int(attributes["width"] or 0) % width == 0
            assert int(attributes["width"] or 0) // width == int(attributes["height"] or 0) // height
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden")
    return page


def decode(uri: str) -> Image.Image:
    """The picture in a data URI."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four methods, two draws, and a sweep over eta: 10 runs."""
    runs = Runs(tmp_path_factory.mktemp("sweep"))
    for draw in range(2):
        for method in ("full", "fitted", "slerp", "replay"):
            runs.run(method, draw=draw)
    runs.run("fitted", eta=0.2)
    runs.run("slerp", eta=0.2)
    return runs.root


@pytest.fixture(scope="module")
def report(sweep: Path) -> Path:
    """Their report, made by the command."""
    assert report_command([str(sweep / "runs"), "-o", str(sweep / "report.html"), "--title", "Unseen"]) == 0
    return sweep / "report.html"


def test_the_report_is_whole(report: Path) -> None:
    """Sections for everything that the runs hold, and the caveats."""
    text = report.read_text(encoding="utf-8")
    page = check_whole(text)
    for words in (
        "Over reference draws",
        "Scores against eta",
        "Samples",
        "Reconstructions",
        "Paths between two references",
        "Acceptance per criterion",
        "Latent geometry",
        "Configuration and provenance",
        "scores of another extractor",
        "FID-H of as many real images is",
        "recognises 100.0% of the replayed references as copies",
        "references 3 and 17",
    ):
        assert words in page.text
    assert page.text.count("How to read this") == 9
    assert text.count("<h1>") == 1
    assert len(text) < 3_000_000


def test_pictures_of_repetitions_are_left_out_and_the_page_says_so(sweep: Path, report: Path) -> None:
    """10 runs of 6 settings: 6 sheets of samples."""
    text = report.read_text(encoding="utf-8")
    assert text.count('class="tiles"') == 6
    assert "pictures of 4 of 10 runs, which repeat a setting" in text
    assert "10 runs of 6 settings" in text
    assert len(load_runs([sweep / "runs", sweep / "runs"])) == 10


def test_a_rerun_with_other_images_is_another_run(tmp_path: Path) -> None:
    """Configurations name paths: what is behind them may have changed. The same images appear once, the first."""
    first = Runs(tmp_path).run("full")
    again, changed = tmp_path / "runs" / "x-again", tmp_path / "runs" / "y-changed"
    results = read_json(first)
    results["rows"][0]["kid_h"] = 0.5
    write_json(again / "results.json", results)
    results["rows"][0] |= {"images": "others", "kid_h": 0.7}
    write_json(changed / "results.json", results)
    found = load_runs([tmp_path / "runs"])
    assert {run.folder for run in found} == {first.parent, changed}
    table = load_results([tmp_path / "runs"])
    generated = table[table["row"] == "generated"]
    assert generated["run"].tolist() == [str(first.parent), str(changed)]
    assert generated["kid_h"].tolist() == [read_json(first)["rows"][0]["kid_h"], 0.7]
    assert (table["row"] == "held_out").sum() == 1
    text = compact(table)
    assert text.loc[~text["images"].str.startswith("["), "run"].tolist() == [first.parent.name, changed.name]
    mixed = compact(load_results([first.parent, os.path.relpath(changed)]))
    assert set(mixed["run"]) == {first.parent.name, changed.name}
    scores = [line.row["kid_h"] for line in lines_of(found) if line.row["row"] == "generated"]
    assert scores == generated["kid_h"].tolist()
    with pytest.raises(InputError, match="several runs of one draw and seed"):
        compare(table)


def test_marks_stand_where_the_rule_puts_them(report: Path) -> None:
    """Copy rates: 0 is best, 0.22 is not near it, and comparison rows do not compete."""
    text = report.read_text(encoding="utf-8")
    table = text[text.index('aria-label="Scores of every run"') :]
    lines = re.findall(r"<tr[^>]*>.*?</tr>", table[: table.index("</table>")], re.DOTALL)
    column = [re.sub(r"<[^>]*>", "", head) for head in re.findall(r"<th.*?</th>", lines[0], re.DOTALL)]
    at = next(i for i, head in enumerate(column) if head.startswith("copies"))
    for line in lines[1:]:
        cells = re.findall(r"<t[hd].*?</t[hd]>", line, re.DOTALL)
        assert ("●" in cells[at]) == ("fitted" in cells[0] and "control" not in line.split(">")[0])
        assert "○" not in cells[at] or "full" in cells[0]


def test_one_run(tmp_path: Path) -> None:
    """Nothing varies: no comparison, no curves, no marks; the setting still has a name."""
    runs = Runs(tmp_path)
    page = check_whole(render(load_runs([runs.run("full")]), "one"))
    assert "Over reference draws" not in page.text
    assert "Scores against eta" not in page.text
    assert "best of its group" not in page.attributes("title")
    assert "full, sample_covariance, calibrated, t 500, eta 0" in page.text


def bare(results: dict[str, Any]) -> None:
    """Everything that a run may lack."""
    results["rows"] = [{"row": "generated", "n": 12, "images": "x", "kid_h": None, "fid_h": 3.0}]
    results["selection"], results["reconstruction"] = {}, {}
    results["details"] |= {"paths": None, "geometry": None}
    for key in ("geometry", "evaluations", "seconds", "artefacts", "images", "environment"):
        del results[key]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_run_that_lacks_what_it_may_lack(tmp_path: Path, channels: int) -> None:
    """Missing scores and sections leave no trace; the caveats say what is unknown."""
    runs = Runs(tmp_path, channels)
    page = check_whole(render(load_runs([runs.run("fitted", change=bare)]), "bare"))
    for words in ("Reconstructions", "Paths", "Acceptance", "Latent geometry", "KID-H ×1000"):
        assert words not in page.text
    assert "whether copies would be caught is unknown" in page.text
    assert "the floor of FID-H and KID-H at these sizes is unknown" in page.text


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    """NaN is shown as nothing, sorts last, and is never the best."""
    runs = Runs(tmp_path)
    for eta in (0.0, 0.2):
        file = runs.run("fitted", eta=eta)
        text = re.sub(r'"(kid_h|copy_rate_low|psnr)": [-.\de]+', r'"\1": NaN', file.read_text(encoding="utf-8"))
        file.write_text(text, encoding="utf-8")
    page = check_whole(render(load_runs([tmp_path / "runs"]), "numbers"))
    assert not re.search(r"\bnan\b", page.text.partition("Configuration and provenance")[0], re.IGNORECASE)
    assert not {"nan", "None"} & set(page.attributes("data-key"))


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    """Markup and mathematics in names reach neither the page's structure nor matplotlib."""
    runs = Runs(tmp_path)
    for eta in (0.0, 0.2):
        runs.run("<b>mine</b>", HOSTILE, eta=eta, prior=f"{HOSTILE}{eta}", model="a$b$_^{", features="<i>")
    page = check_whole(render(load_runs([tmp_path / "runs"]), HOSTILE))
    assert page.text.count(HOSTILE) > 5
    assert "<b>mine</b>" in page.text


def test_geometry_without_spread_and_large_pictures(tmp_path: Path) -> None:
    """Latents that are all alike are drawn as a line; images above 96 pixels are reduced, and the page says so."""
    runs = Runs(tmp_path, channels=1, size=112, count=4)
    flat = {name: torch.full((3, 4), 60.0, dtype=torch.float64) for name in ("references", "own")}
    folder = runs.put("geometry", {"flat": True}, lambda: flat)
    file = runs.run("fitted", change=lambda results: results["details"].update(geometry=folder))
    page = check_whole(render(load_runs([file]), "flat"))
    assert "images of 112 pixels are shown with 96" in page.text
    assert "references R (3)" in page.text


def test_samples_stand_beside_the_images_that_the_run_names(tmp_path: Path) -> None:
    """Nearest images are taken from the set that was scored against, validation images where those were."""
    run = load_runs([Runs(tmp_path).run("fitted", target="validation")])[0]
    found, split = run.needed("nearest"), run.needed("split")
    shown = gallery([run], Names([run]), 1.0)
    assert shown.real_name == "real validation images"
    for i, tile in enumerate(shown.samples[0].tiles):
        r, h = (int(found.tensor(f"{name}_index")[i]) for name in ("reference", "heldout"))
        assert tile.reference.uri == picture(split.tensor("references")[r], "").uri
        assert tile.heldout.uri == picture(split.tensor("validation")[h], "").uri
        assert tile.heldout_distance == pytest.approx(float(found.tensor("heldout_distance")[i]))


def test_names_say_what_a_method_does_not_decide(tmp_path: Path) -> None:
    """The prior of slerp is slerp: only settings that vary within a method are named."""
    runs = Runs(tmp_path)
    runs.run("fitted", eta=0.1)
    runs.run("slerp", eta=0.1, prior="slerp")
    loaded = load_runs([tmp_path / "runs"])
    assert [Names(loaded).of(run) for run in loaded] == ["fitted", "slerp"]
    runs.run("fitted", eta=0.2, prior="low_rank")
    loaded = load_runs([tmp_path / "runs"])
    assert Names(loaded).of(loaded[0]) == "fitted, sample_covariance, eta 0.1"
    runs.run("slerp", eta=0.1, prior="slerp", seed=1, change=lambda results: results["config"].update(steps=9))
    assert Names(load_runs([tmp_path / "runs"])).extra == ["steps"]


def test_runs_are_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Artefact folders as written, relative to where the run was started: above the run's folder."""
    monkeypatch.chdir(tmp_path)
    file = Runs(Path("outputs")).run("full")
    assert not Path(json.loads(file.read_text())["details"]["split"]).is_absolute()
    monkeypatch.chdir("/")
    check_whole(render(load_runs([tmp_path / file]), "elsewhere"))


def spoil(key: str) -> Callable[[dict[str, Any]], None]:
    """Takes a part out of the results."""
    return lambda results: results.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda results: results.update(schema=1), "not the results of a run"),
        (spoil("details"), "lacks details; run this point again"),
        (spoil("rows"), "lacks rows"),
        (lambda results: results["details"].pop("nearest"), "lacks details.nearest; run this point again"),
        (lambda results: results["details"].update(split="gone/split"), "gone/split: the artefact of"),
        (
            lambda results: results["details"].update(nearest=results["details"]["split"]),
            "no tensor reference_distance",
        ),
    ],
)
def test_bad_results_are_one_clear_line(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    """The file or folder, and the remedy."""
    file = Runs(tmp_path).run("fitted", change=change)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        render(load_runs([file]), "bad")
    assert "\n" not in str(caught.value)


def test_tables_refuse_results_without_their_parts(tmp_path: Path) -> None:
    """By the same line as reports."""
    for part in ("config", "rows", "settings"):
        file = Runs(tmp_path).run("fitted", change=spoil(part))
        with pytest.raises(InputError, match=re.escape(f"{file}: lacks {part}; run this point again")):
            load_results([file])


def test_bad_arguments_are_one_clear_line(tmp_path: Path) -> None:
    """Nothing there, and outputs that are no HTML file; nothing is written."""
    file = Runs(tmp_path).run("fitted")
    with pytest.raises(InputError, match="no such file"):
        report_command([str(tmp_path / "none")])
    with pytest.raises(InputError, match=re.escape("report.pdf: the report is one HTML file")):
        report_command([str(file), "-o", str(tmp_path / "report.pdf")])
    tensors = next((tmp_path / "artefacts" / "split").glob("*/tensors.safetensors"))
    tensors.write_bytes(b"cut off")
    with pytest.raises(InputError, match="missing or damaged; run again"):
        report_command([str(file), "-o", str(tmp_path / "report.html")])
    assert not (tmp_path / "report.html").exists()


def test_difference_adds_errors_in_quadrature() -> None:
    """MOVER with symmetric intervals is the normal interval of a difference."""
    a, b = Estimate(3.0, 3.0 - 0.3, 3.0 + 0.3), Estimate(1.0, 1.0 - 0.4, 1.0 + 0.4)
    assert difference(a, b) == pytest.approx((1.5, 2.5))
    low, high = difference(a, b)
    assert difference(b, a) == pytest.approx((-high, -low))


def test_difference_of_shares_covers() -> None:
    """With Wilson intervals, MOVER covers the difference of two binomial shares about as often as it says."""
    from unseen_diffusion.scores.intervals import wilson

    rng = np.random.default_rng(0)
    caught = 0
    for _ in range(1000):
        shares = [wilson(int(rng.binomial(60, p)), 60) for p in (0.1, 0.3)]
        low, high = difference(*(Estimate(s.share, s.low, s.high) for s in shares))
        caught += low <= -0.2 <= high
    assert 0.93 < caught / 1000 < 0.98


def test_marks() -> None:
    """The best, those whose difference from it may be 0, and nothing where nothing can be said."""

    def around(value: float) -> Estimate:
        return Estimate(value, value - 1, value + 1)

    values = [around(5.0), around(6.0), around(9.0), None, Estimate(float("nan"))]
    assert marks(values, "lower") == ["best", "near", "", "", ""]
    assert marks(values, "higher") == ["", "", "best", "", ""]
    assert marks(values, "") == [""] * 5
    assert marks([around(5.0)], "lower") == [""]
    assert marks([around(5.0), around(5.0)], "lower") == ["", ""]
    assert marks([Estimate(1.0), Estimate(1.0), Estimate(2.0)], "lower") == ["best", "best", ""]


def test_numbers_as_text() -> None:
    """Three digits, the units of ``SCORES``, and nothing for what is missing."""
    assert [three_digits(v) for v in (0.0, 0.05, 0.9871, 5.678, 53.38, 1234.5, 2e-7)] == [
        "0",
        "0.0500",
        "0.987",
        "5.68",
        "53.4",
        "1,234",
        "2.0e-07",
    ]
    assert show("kid_h", 0.323) == "323"
    assert show("kid_h", -0.0007) == "-0.7"
    assert show("copy_rate", 0.225) == "22.5%"
    assert show("kid_h_p", 0.0002) == "<0.001"
    assert show("psnr", None) == show("psnr", float("nan")) == ""
    assert list(SCORES)[:2] == ["kid_h", "kid_h_p"]


def test_replicates_are_draws() -> None:
    """Seeds of a draw are averaged first; the interval is Student's over draws."""
    values = np.random.default_rng(0).normal(size=(5, 3))
    found = combine([[Estimate(v) for v in row] for row in values])
    expected = stats.ttest_1samp(values.mean(1), 0).confidence_interval(0.95)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    one = Estimate(1.0, 0.5, 1.5)
    assert combine([[one, Estimate(2.0)]]) is one


def test_distributions_have_unit_area() -> None:
    """And values without spread have none."""
    positions = np.linspace(-8, 8, 400)
    heights = density(np.random.default_rng(0).normal(size=100), positions)
    assert heights is not None
    assert np.trapezoid(heights, positions) == pytest.approx(1, abs=1e-3)
    assert density(np.full(5, 60.0), positions) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_keep_every_pixel(channels: int) -> None:
    """The PNG holds the pixels as saved; only the browser magnifies, by a whole number."""
    images = torch.randint(0, 256, (3, channels, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one = picture(images[0], "one")
    back = torch.from_numpy(np.array(decode(one.uri).convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(back, images[0].expand(3, -1, -1))
    assert (one.width, one.height) == (64, 64)
    row = decode(strip(images, "three").uri)
    assert row.size == (3 * 9 + 1, 10)
    assert len(one.uri) < cost(images)


@given(
    st.sampled_from(sorted(SHARES)), st.integers(1, 300), st.integers(1, 2_000_000), st.sampled_from([0.1, 0.5, 1.0])
)
@example("samples", 100, 500_000, 0.5)
@example("paths", 9, 1_000, 0.5)
def test_pictures_stay_within_their_budget(kind: str, sheets: int, bytes_each: int, share: float) -> None:
    """Fewer pictures per sheet, then fewer sheets, and no fewer than needed; one sheet at least."""
    found, room = plan(kind, sheets, bytes_each, share), int(BUDGET * SHARES[kind] * share)
    if LEAST[kind] * bytes_each > room:
        assert (found.sheets, found.pictures) == (1, LEAST[kind])
        return
    assert found.sheets * found.pictures * bytes_each <= room
    if found.sheets < sheets:
        assert found.pictures == LEAST[kind]
        assert (found.sheets + 1) * found.pictures * bytes_each > room
    else:
        assert found.pictures == MOST[kind] or sheets * (found.pictures + 1) * bytes_each > room


CHROMIUM = (
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium, as Debian packages it."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra dev)")
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium and chromedriver in PATH (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*CHROMIUM, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chromium = webdriver.Chrome(options, Service(driver))
    yield chromium
    chromium.quit()


@pytest.fixture
def opened(browser: Any, report: Path) -> Any:
    """The report, freshly opened from disk in a desktop window."""
    resize(browser, 1280)
    browser.get(report.as_uri())
    return browser


def resize(browser: Any, width: int) -> None:
    """The window as a screen of this many CSS pixels."""
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def column(browser: Any, index: int) -> list[str]:
    """What the cells of a column of the results sort by."""
    lines = "[...document.querySelectorAll('#results tbody tr')]"
    return browser.execute_script(f"return {lines}.map(line => line.cells[arguments[0]].dataset.key)", index)


def test_in_a_browser_it_opens_and_fetches_nothing(opened: Any) -> None:
    """No message in the console, no request, every picture decoded, every plot visible."""
    assert opened.title == "Unseen"
    assert opened.get_log("browser") == []
    assert opened.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    script = "return [...document.images].map(i => i.complete && i.naturalWidth > 0 && i.alt.length > 0)"
    pictures = opened.execute_script(script)
    assert len(pictures) > 50
    assert all(pictures)
    plots = opened.execute_script("return [...document.querySelectorAll('.panels svg')].map(s => s.getBBox().width)")
    assert plots
    assert min(plots) > 100


@pytest.mark.parametrize("press", ["click", "keyboard"])
def test_in_a_browser_columns_sort(opened: Any, press: str) -> None:
    """Up, then down; aria-sort says so; lines without a value stay last; no console errors."""
    from selenium.webdriver.common.keys import Keys

    opened.execute_script("document.querySelector('#results details').open = true")
    heads = opened.find_elements("css selector", "#results thead th")
    for name, in_order in (("KID-H", False), ("PSNR", True)):  # PSNR: one value, and lines without any
        at = next(i for i, head in enumerate(heads) if head.text.startswith(name))
        button = heads[at].find_element("tag name", "button")
        before = column(opened, at)
        for order in ("ascending", "descending"):
            button.click() if press == "click" else button.send_keys(Keys.ENTER)
            values = column(opened, at)
            known = [value for value in values if value]
            assert known == sorted(known, key=float, reverse=order == "descending")
            assert values == known + [""] * values.count("")
            assert sorted(values) == sorted(before)
            if not in_order:
                assert values != before
            assert heads[at].get_attribute("aria-sort") == order
        assert sum(head.get_attribute("aria-sort") != "none" for head in heads) == 1
    assert opened.get_log("browser") == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_in_a_browser_the_page_never_scrolls_sideways(opened: Any, width: int) -> None:
    """Wide tables scroll inside their own container."""
    resize(opened, width)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    assert opened.execute_script("return document.body.scrollWidth") <= width
    box = "document.querySelector('#results .scroll')"
    if width == 360:
        assert opened.execute_script(f"return {box}.scrollWidth > {box}.clientWidth")


def test_in_print_nothing_is_folded_or_cut(opened: Any) -> None:
    """Details are open, containers do not clip, and no table is wider than the sheet of A4."""
    opened.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    script = "return [...document.querySelectorAll('details')].every(one => one.open)"
    assert opened.execute_script(script)
    opened.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert not opened.execute_script(script)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    resize(opened, 1032)  # CSS pixels of A4 landscape between margins of 12 mm
    boxes = "[...document.querySelectorAll('.scroll')]"
    assert opened.execute_script(f"return {boxes}.every(one => getComputedStyle(one).overflowX === 'visible')")
    assert opened.execute_script("return document.documentElement.scrollWidth") <= 1032
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
