"""The lessons and the site: whole, offline, and in a browser: hints, answers, search, figures."""

import itertools
import re

import nbformat
import pytest
from chromium import launched
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from data.build.browser import bundle
from gscam_lib.explorer.photos import choose
from gscam_lib.methods import METHODS
from notebooks import book, classes, teach

pytestmark = pytest.mark.xdist_group("lessons")  # what is built for it is built once

FOLDER = classes.FOLDER
LESSONS = teach.lessons()
SECTIONS = [
    "Goals", "Plan by the minute", "For 14-year-olds", "For undergraduates",
    "When it does not work", "How to check the work",
]  # fmt: skip
FETCHES = r'<(?:script|link|img|iframe)[^>]*(?:src|href)="((?:https?:)?//[^"]+)"'


def test_a_lesson_is_whole():
    assert [lesson.number for lesson in LESSONS] == [1, 2, 3]
    for lesson in LESSONS:
        assert re.findall(r"^## (.+)$", lesson.plan, re.M) == SECTIONS
        minutes = [tuple(map(int, m)) for m in re.findall(r"^\| (\d+)–(\d+) \|", lesson.plan, re.M)]
        assert minutes[0][0] == 0
        assert minutes[-1][1] == 45
        assert all(a[1] == b[0] for a, b in itertools.pairwise(minutes))
        assert len(lesson.head["quiz"]) == 10
        assert all(q["ask"] and q["answer"] for q in lesson.head["quiz"])
        blanks = set(classes.sheet()[lesson.head["notebook"]])
        plan = lesson.plan.partition("## Plan")[2].partition("## For und")[0]
        assert set(re.findall(r"`(\w+)`", plan)) & blanks, "the plan names its blanks"


def test_presets_open_as_they_say():
    for preset in (p for lesson in LESSONS for p in lesson.head["presets"]):
        asked = preset["query"]
        offered = choose(None, drawn=asked["model"].startswith("mini"))
        assert asked["photo"] in [photo.name for photo in offered.values()], "in the app"
        if "live page" in teach._links(asked):
            assert asked["photo"] in [photo.name for photo in bundle._some(offered).values()]
        assert asked.get("method", "gscorecam") in METHODS
    assert set(teach.LIVE_METHODS) == set(bundle.COMPUTED)


def test_handout_holds_what_notebook_0_says():
    assert len(teach.steps()) == 4
    assert len(teach.words()) >= 12
    for lesson in LESSONS:
        text = teach.handout(lesson)
        assert all(word in re.sub("<.*?>", "", text) for word in ("logit", "softmax", "IoU"))
        assert text.count("<dt>") == len(teach.words())


@pytest.fixture(scope="module")
def browser():
    with launched() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """build/book, with a chapter more that has a widget, and build/lessons."""
    build = tmp_path_factory.mktemp("build")
    (folder := build / "notebooks").mkdir()
    for path in book.notebooks():
        (folder / path.name).symlink_to(path)
    figure = new_output("display_data", data={"image/png": PIXEL, "text/plain": "Figure"})
    widget = new_output("display_data", data={book.WIDGET: {"model_id": "x"}, "text/plain": "HBox"})
    cells = [
        new_markdown_cell("# One more\n\nThis is [out](../figures/README.md) of the ordinary."),
        new_code_cell("figure", outputs=[figure, widget]),
        new_markdown_cell("## By hand\n\nAdd."),
        new_code_cell("1 + 1"),
    ]
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    nbformat.write(new_notebook(cells=cells, metadata=language), folder / "11_more.ipynb")
    book.write(build / "book", folder, live={"11_more": lambda: Page()})
    teach.write(build / "lessons")
    return build


@pytest.fixture(scope="module")
def site(built):
    return built / "book"


class Page:
    def export_html(self, path):
        path.write_text("<title>live</title>")


PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def test_site_loads_nothing_from_elsewhere(built):
    pages = list(built.rglob("*.html"))
    assert len(pages) >= 30
    for path in pages:
        assert not re.findall(FETCHES, path.read_text(encoding="utf-8")), path.name
    for path in built.rglob("*.css"):
        assert not re.search(r"url\((?:https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_chapters_are_made_ready(site):
    assert sorted(p.name for p in site.parent.iterdir()) == ["book", "lessons", "notebooks"]
    page = (site / "11_more.html").read_text(encoding="utf-8")
    assert '<iframe src="11_more_live.html"' in page
    assert "HBox" not in page
    assert "../figures/README.md" not in page
    assert page.count('<details class="admonition hide') == 1, "open where it is by hand"
    assert 'href="11_more_live.html">live</a>' in (site / "index.html").read_text(encoding="utf-8")
    real = (site / "00_first_look.html").read_text(encoding="utf-8")
    assert "google.colab" not in real
    assert 'alt="Three prompts on one photo.' in real


def test_a_site_needs_notebooks(tmp_path):
    with pytest.raises(FileNotFoundError, match="No notebooks"):
        book.write(tmp_path / "site", tmp_path)


def test_lessons_are_there_and_handouts_are_one_page(built):
    folder = built / "lessons"
    for lesson in LESSONS:
        printed = (folder / f"{lesson.name}_handout.pdf").read_bytes()
        assert len(re.findall(rb"/Type /Page\b", printed)) == 1
        assert len(printed) < 250_000
        slides = (folder / f"{lesson.name}_slides.html").read_text(encoding="utf-8")
        assert slides.count("<section") > 15
        quiz = (folder / f"{lesson.name}_quiz.html").read_text(encoding="utf-8")
        answers = [q["answer"] for q in lesson.head["quiz"] if len(q["answer"]) > 40]
        assert answers
        assert not any(answer in quiz for answer in answers), "answers are apart"
        stem, kept = lesson.head["notebook"], lesson.head["young"]
        whole, young = (
            nbformat.read(folder / f"class_{stem}{end}.ipynb", 4) for end in ("", "_14")
        )
        names = [
            b.name for c in young.cells if c.cell_type == "code" for b in classes.blanks(c.source)
        ]
        assert names == kept
        assert len(whole.cells) > len(young.cells), "a hint and a check for these alone"


def test_pages_link_to_what_is_there(built):
    for path in (*built.glob("lessons/*.html"), built / "book" / "index.html"):
        text = path.read_text(encoding="utf-8")
        for address in re.findall(r'href="([^"#?:]+)[#?"]', text):
            target = (path.parent / address).resolve()
            assert target.exists() or target == built / "live" / "index.html", (path.name, address)


def opened(browser, path, width=1280, **options):
    page = browser.new_page(viewport={"width": width, "height": 860}, **options)
    page.errors, page.asked = [], []
    page.on("pageerror", lambda e: page.errors.append(str(e)))
    page.on("request", lambda r: page.asked.append(r.url))
    page.goto(path.as_uri())
    return page


def test_a_reader_goes_through_the_site(browser, site):
    page = opened(browser, site / "index.html")
    assert all(len(image.get_attribute("alt")) > 20 for image in page.locator("article img").all())
    page.locator("a.next-page").click()
    assert page.title().startswith("First look")
    page.locator("a.next-page").click()
    assert page.title().startswith("What is a channel")
    page.locator("a.prev-page").click()
    solutions = page.locator("article details", has_text="Solutions").last
    assert not solutions.locator("li").first.is_visible(), "hidden until asked for"
    solutions.locator("summary").focus()
    page.keyboard.press("Enter")
    assert solutions.locator("li").first.is_visible()
    code = page.locator("details.hide").first
    assert not code.locator("pre").first.is_visible()
    code.locator("summary").click()
    assert code.locator("pre").first.is_visible()
    picture = page.locator("button.enlarge").first
    assert picture.get_attribute("aria-label").startswith("Enlarge: ")
    picture.focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    assert page.evaluate("document.activeElement.className") == "enlarge", "focus comes back"
    page.locator("input[name=q]").first.fill("espresso")
    page.keyboard.press("Enter")
    page.locator("ul.search li a", has_text="First look").wait_for()
    assert not page.errors
    assert all(url.startswith(("file:", "data:")) for url in page.asked)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone_and_follow_the_scheme(browser, built, scheme):
    names = "book/index book/00_first_look book/05_the_table lessons/2_word lessons/2_word_slides"
    page = opened(browser, built / "lessons" / "room.html", 390, color_scheme=scheme)
    for name in names.split():
        page.goto((built / f"{name}.html").as_uri())
        over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert over <= 0, f"{name} is {over} pixels too wide"
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, re.findall(r"\d+", paper)[:3])) > 380
        assert light == (scheme == "light"), (name, paper)
    page.close()


def named(page):
    """What can be focused, and each picture, has a name for those who hear the page."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    for node in nodes:
        role = node.get("role", {}).get("value", "")
        focusable = any(p["name"] == "focusable" for p in node.get("properties", []))
        if (
            not node["ignored"]
            and role != "RootWebArea"
            and (focusable or role in ("img", "image"))
        ):
            yield role, node.get("name", {}).get("value", "").strip()


def test_a_pupil_goes_through_each_lesson(browser, built):
    page = opened(browser, built / "lessons" / "index.html")
    for lesson in LESSONS:
        page.goto((built / "lessons" / "index.html").as_uri())
        page.get_by_role("link", name=lesson.head["title"]).press("Enter")
        page.wait_for_url(f"**{lesson.name}.html")
        assert page.title() == lesson.title
        hint = page.locator("details").first
        assert not hint.locator("p").first.is_visible()
        hint.locator("summary").focus()
        page.keyboard.press("Enter")
        assert hint.locator("p").first.is_visible()
        addresses = [a.get_attribute("href") for a in page.locator("main a").all()]
        assert any(a.startswith(f"{teach.LIVE}?") and "photo=" in a for a in addresses)
        page.get_by_role("link", name="slides").press("Enter")
        page.wait_for_url("**_slides.html")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("scrollY > innerHeight / 2")
        answer = page.locator("section details").last
        last = page.get_by_text(lesson.head["quiz"][-1]["answer"])
        assert not last.is_visible()
        answer.locator("summary").press("Enter")
        assert last.is_visible()
        nameless = [role for role, name in named(page) if not name and role != "generic"]
        assert not nameless
        assert not page.errors
    page.close()
