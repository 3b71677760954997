"""The page as people see it, in a real Chromium: every dashboard and tab, light, dark and on a phone; and served live.

What was seen is kept as pictures in `CARAT_SCREENSHOTS`, build/screenshots by default.
"""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from app.dashboards.card_results import parse_result, query_runner
from app.dashboards.model import load_library
from app.dashboards.preview import static_page, write_page
from app.settings import Settings
from app.warehouse import migrate, open_warehouse
from tests.dashboards.gallery import a_card, a_dashboard, a_library, every_display, literal
from tests.support.chromium import Browser, running_chromium
from tests.support.corpora import naughty_strings

pytestmark = pytest.mark.slow

PICTURES = Path(os.environ.get("CARAT_SCREENSHOTS", "build/screenshots"))
DESKTOP, PHONE = (1440, 900), (390, 844)
CHARTS = {"line", "bar", "area", "combo", "row", "pie"}

# What each card of the tab shows, and where its words are in the way of each other.
SEEN = """
const box = (element) => element.getBoundingClientRect();
const level = (text) => { const m = text.getScreenCTM(); return Math.abs(m.b) < 0.01; };
return [...document.querySelectorAll('#grid .card')].filter((card) => card.querySelector('.card-body')).map((card) => {
  const body = card.querySelector('.card-body');
  const drawings = [...body.querySelectorAll('.plot svg, .ring svg')];
  const texts = drawings.flatMap((svg) => [...svg.querySelectorAll('text')].filter((text) => text.textContent.trim() && level(text)));
  const overlaps = [];
  texts.forEach((one, index) => texts.slice(index + 1).forEach((other) => {
    const [a, b] = [box(one), box(other)];
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 1.5 && down > 3) overlaps.push(one.textContent + ' | ' + other.textContent);
  }));
  const clipped = texts.filter((text) => {
    const [own, edge] = [box(text), box(text.ownerSVGElement)];
    return own.left < edge.left - 1.5 || own.right > edge.right + 1.5 || own.top < edge.top - 3 || own.bottom > edge.bottom + 3;
  }).map((text) => text.textContent);
  const big = body.querySelector('.big');
  if (big && big.scrollWidth > big.clientWidth + 1) clipped.push(big.textContent);
  return {
    name: card.querySelector('h3').textContent, display: card.dataset.display, state: body.querySelector('[data-state]')?.dataset.state || 'drawn',
    said: body.querySelector('[data-state]')?.textContent || '', width: box(body).width, height: box(body).height,
    left: box(card).left, cardWidth: box(card).width,
    marks: drawings.flatMap((svg) => [...svg.querySelectorAll('path')]).filter((path) => box(path).width > 1 || box(path).height > 1).length,
    words: texts.length, rows: body.querySelectorAll('tbody tr').length, steps: body.querySelectorAll('.step').length - 1,
    figure: big ? big.textContent : '', overlaps, clipped,
  };
});
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with running_chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(demo_settings, tmp_path_factory):
    """The demo shop's page, and one with every display."""
    folder = tmp_path_factory.mktemp("pages")
    with open_warehouse(demo_settings, purpose="a test", writes=False) as warehouse:
        read = query_runner(warehouse)
        write_page(read, load_library(), folder / "demo.html")
        write_page(read, a_library(a_dashboard("Gallery", every_display())), folder / "gallery.html")
    return folder


def opened(browser: Browser, url: str, *, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> list[dict]:
    """Opens a page; its dashboards."""
    browser.driver.get("data:,")
    browser.size(*size)
    browser.prefer(scheme)
    browser.complaints()
    browser.requests()
    browser.driver.get(url)
    wait(browser, "return document.getElementById('grid').dataset.shown")
    return browser.run("return JSON.parse(document.getElementById('content').textContent).dashboards")


def wait(browser: Browser, script: str, *arguments, seconds: float = 15):
    """The first value of the script that is true."""
    for _ in range(int(seconds / 0.05)):
        if value := browser.run(script, *arguments):
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {script}")


def turned(browser: Browser, act) -> str:
    """Does something after which the page is drawn anew, and waits for that."""
    before = browser.run("return document.getElementById('grid').dataset.shown")
    act()
    return wait(
        browser, "const now = document.getElementById('grid').dataset.shown; return now !== arguments[0] && now", before
    )


def go(browser: Browser, slug: str, tab: int) -> None:
    """Opens a tab by its address."""
    browser.run("location.hash = arguments[0]", f"#{slug}/{tab}")
    wait(browser, "return document.getElementById('grid').dataset.shown.startsWith(arguments[0])", f"{slug}/{tab}/")


def asked(browser: Browser) -> list[str]:
    """What was asked of the network; a browser's own pages and what is written in an address are not."""
    return [url for url in browser.requests() if not url.startswith(("chrome:", "data:"))]


# In a shop without filters of its own, whose endpoint map fits.
NOTHING_TO_REPORT = {"Filters used", "What the endpoint map does not fit"}


def problems_of(cards: list[dict]) -> list[str]:
    """What is wrong with these cards at a glance."""
    found = []
    for card in cards:
        shown = {
            "charts": card["marks"] >= 1 and (card["words"] >= 2 or card["display"] == "pie"),
            "figures": card["figure"] not in {"", "–"},
            "funnel": card["steps"] > 1,
            "rows": card["rows"] > 0,
        }
        kind = (
            "charts"
            if card["display"] in CHARTS
            else {"scalar": "figures", "smartscalar": "figures", "funnel": "funnel"}.get(card["display"], "rows")
        )
        if card["state"] == "empty" and card["name"] in NOTHING_TO_REPORT:
            continue
        if card["state"] != "drawn":
            found.append(f"{card['name']}: {card['state']}: {card['said']}")
        elif not shown[kind]:
            found.append(f"{card['name']}: nothing is drawn")
        if card["width"] < 100 or card["height"] < 16:
            found.append(f"{card['name']}: only {card['width']:.0f} x {card['height']:.0f}")
        found += [f"{card['name']}: labels overlap: {words}" for words in card["overlaps"]]
        found += [f"{card['name']}: cut off: {words}" for words in card["clipped"]]
    return found


LOOKS = [("light", DESKTOP, "light"), ("dark", DESKTOP, "dark"), ("phone", PHONE, "light")]


@pytest.mark.parametrize("page", ["demo", "gallery"])
@pytest.mark.parametrize(("look", "size", "scheme"), LOOKS, ids=[look[0] for look in LOOKS])
def test_every_tab_shows_every_card_and_keeps_quiet(browser, pages, page, look, size, scheme):
    url = (pages / f"{page}.html").as_uri()
    dashboards = opened(browser, url, size=size, scheme=scheme)
    problems = []
    for dashboard in dashboards:
        for number, tab in enumerate(dashboard["tabs"]):
            go(browser, dashboard["slug"], number)
            cards = browser.run(SEEN)
            browser.keep_picture(PICTURES / f"{page}-{dashboard['slug']}-{number}-{look}.png")
            where = f"{dashboard['name']}, {tab['name']}"
            assert len(cards) == sum("text" not in card for card in tab["cards"]), where
            problems += [f"{where}: {problem}" for problem in problems_of(cards)]
            across = browser.run("return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
            if max(across[:2]) > size[0]:
                problems.append(f"{where}: wider than the window: {across}")
            if look == "phone" and any(
                c["left"] > 20 or c["cardWidth"] < 340 for c in cards if c["display"] not in {"scalar", "smartscalar"}
            ):
                problems.append(f"{where}: more than one column")
    assert problems == []
    assert browser.complaints() == []
    assert set(asked(browser)) == {url}
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) is (scheme == "dark")


def test_the_page_of_a_demo_shop_is_small_and_every_card_has_an_answer(browser, pages):
    assert (pages / "demo.html").stat().st_size < 1.2 * 1024**2
    opened(browser, (pages / "demo.html").as_uri())
    results = browser.run("return JSON.parse(document.getElementById('content').textContent).results")
    asked = {own.entity_id: own.card.name for board in load_library().dashboards for own in board.dashcards if own.card}
    assert results.keys() == asked.keys()
    assert {asked[key] for key, own in results.items() if not own.get("rows")} == NOTHING_TO_REPORT


def test_only_the_tab_that_is_shown_is_drawn_its_first_chart_before_the_rest(browser, pages):
    dashboards = opened(browser, (pages / "demo.html").as_uri())
    marks = browser.run("return performance.getEntriesByType('mark').map((mark) => mark.name)")
    assert marks == ["carat-first-chart", "carat-tab-drawn"]
    drawn = browser.run("return [...document.querySelectorAll('#grid [data-card]')].map((card) => card.dataset.card)")
    assert 0 < len(drawn) < sum(len(tab["cards"]) for own in dashboards for tab in own["tabs"])


def test_tabs_are_reached_by_click_keys_and_address_and_the_back_button(browser, pages):
    dashboards = opened(browser, (pages / "demo.html").as_uri())
    several = next(own for own in dashboards if len(own["tabs"]) > 1)

    def tabs(name):
        return browser.driver.find_elements(By.CSS_SELECTOR, f"#{name} [role=tab]")

    turned(browser, next(tab for tab in tabs("dashboards") if tab.text == several["name"]).click)
    assert browser.run("return document.getElementById('name').textContent") == several["name"]
    turned(browser, tabs("tabs")[1].click)
    assert [tab.get_attribute("aria-selected") for tab in tabs("tabs")][:2] == ["false", "true"]
    turned(browser, lambda: tabs("tabs")[1].send_keys(Keys.ARROW_LEFT))
    assert tabs("tabs")[0].get_attribute("aria-selected") == "true"
    turned(browser, browser.driver.back)
    assert browser.run("return location.hash") == f"#{several['slug']}/1"


def test_light_and_dark_can_be_switched_by_hand(browser, pages):
    opened(browser, (pages / "gallery.html").as_uri())
    ink = "return document.querySelector('[data-card=\"Gallery-rows\"] svg text').getAttribute('fill')"
    before = browser.run(ink)
    browser.driver.find_element(By.ID, "theme").click()
    assert browser.run("return document.documentElement.dataset.theme") == "dark"
    assert browser.run(ink) != before
    browser.driver.find_element(By.ID, "theme").click()
    assert browser.run(ink) == before


def test_a_card_tells_about_itself_shows_its_numbers_and_a_table_is_sorted_by_a_click(browser, pages):
    opened(browser, (pages / "gallery.html").as_uri())

    def card(name):
        return browser.driver.find_element(By.CSS_SELECTOR, f'[data-card="Gallery-{name}"]')

    card("a-number").find_element(By.CSS_SELECTOR, "[aria-expanded]").click()
    assert card("a-number").find_element(By.CLASS_NAME, "about").text == "What it says."
    card("bars").find_element(By.CSS_SELECTOR, "[aria-pressed]").click()

    def cells(name):
        return [cell.text for cell in card(name).find_elements(By.CSS_SELECTOR, "tbody tr:first-child td")]

    assert cells("bars") == ["Organic Search", "9,000"]
    card("bars").find_element(By.CSS_SELECTOR, "[aria-pressed]").click()
    assert card("bars").find_elements(By.TAG_NAME, "svg")
    assert cells("a-table")[1:] == ["€0", "0.0%", "0 s", "1", "–"]
    worth = card("a-table").find_elements(By.CSS_SELECTOR, "th button")[1]
    browser.run("arguments[0].click()", worth)
    assert cells("a-table")[1:4] == ["€59", "78.0%", "39 min 39 s"]
    assert card("a-table").find_elements(By.CSS_SELECTOR, "th")[1].get_attribute("aria-sort") == "descending"


def test_a_legend_entry_hides_its_series_and_brings_it_back(browser, pages):
    opened(browser, (pages / "gallery.html").as_uri())
    card = browser.driver.find_element(By.CSS_SELECTOR, '[data-card="Gallery-lines-of-a-breakout"]')

    def strokes():
        return len(
            {path.get_attribute("stroke") for path in card.find_elements(By.CSS_SELECTOR, "svg path[stroke-width='2']")}
        )

    assert strokes() == 3
    entry = card.find_element(By.CLASS_NAME, "legend-entry")
    entry.click()
    assert (strokes(), entry.get_attribute("aria-pressed")) == (2, "false")
    entry.click()
    assert strokes() == 3


def test_change_within_noise_has_no_colour_and_says_so(browser, demo_settings, tmp_path):
    def number(name, verdict):
        days = 'SELECT toDate(\'2026-03-01\') + number AS "Day", 100 + 20 * number AS "Orders"'
        return a_card(name, "smartscalar", f"{days}, '{verdict}' AS \"Verdict\" FROM numbers(2)")

    rows = "SELECT 'a' AS \"Step\", 1 AS \"Change\", 'worse' AS \"Verdict\" UNION ALL SELECT 'b', 2, 'within noise'"
    zero = 'SELECT toDate(\'2026-03-01\') + number AS "Day", 3 * number AS "Orders" FROM numbers(2)'
    cards = [
        number("Real", "better"), number("Noise", "within noise"), number("Few", "too few to tell"),
        a_card("From none", "smartscalar", zero), a_card("List", "table", rows),
    ]  # fmt: skip
    with open_warehouse(demo_settings, purpose="a test", writes=False) as warehouse:
        (tmp_path / "page.html").write_bytes(
            static_page(query_runner(warehouse), a_library(a_dashboard("Verdicts", cards)), {})
        )
    opened(browser, (tmp_path / "page.html").as_uri())
    said = browser.run(
        "return [...document.querySelectorAll('.change')].map((one) => [one.firstChild.className, one.textContent])"
    )
    assert said == [
        ["good", "▲ 20.0%previous period: 100"],
        ["same", "▲ 20.0%within noiseprevious period: 100"],
        ["same", "▲ 20.0%too few to tellprevious period: 100"],
        ["quiet", "previous period: 0"],
    ]
    assert browser.run("return [...document.querySelectorAll('tbody tr')].map((row) => row.className)") == [
        "",
        "is-noise",
    ]


def test_what_matters_stands_in_words_on_top_of_the_first_tab_and_leads_to_its_cards(browser, pages):
    opened(browser, (pages / "demo.html").as_uri())
    said = browser.run("return [...document.querySelectorAll('#insights li')].map((one) => one.textContent)")
    assert 2 <= len(said) <= 5
    turned(browser, browser.driver.find_element(By.CSS_SELECTOR, "#insights li:last-child a").click)
    assert not browser.driver.find_element(By.ID, "insights").is_displayed()
    assert not browser.run("return document.querySelector('#grid').dataset.shown").startswith("store_overview/0")


def test_numbers_of_a_card_are_saved_as_csv_without_formulas(browser, pages, demo_settings, tmp_path):
    rows = 'SELECT arrayJoin([\'=1+1\', \'a "b", c\', \'-2\']) AS "What", 1.5 AS "Worth", NULL AS "Nothing"'
    with open_warehouse(demo_settings, purpose="a test", writes=False) as warehouse:
        library = a_library(a_dashboard("Csv", [a_card("Words", "table", rows)]))
        (tmp_path / "page.html").write_bytes(static_page(query_runner(warehouse), library, {}))
    opened(browser, (tmp_path / "page.html").as_uri())
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.driver.find_element(By.CSS_SELECTOR, "[aria-label='CSV of Words']").click()
    for _ in range(100):
        if (tmp_path / "Words.csv").exists():
            break
        time.sleep(0.05)
    lines = (tmp_path / "Words.csv").read_text(encoding="utf-8-sig").split("\n")
    assert [line.rstrip("\r") for line in lines] == [
        "What,Worth,Nothing", "'=1+1,1.5,", '"a ""b"", c",1.5,', "'-2,1.5,",
    ]  # fmt: skip
    assert browser.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_on_the_strongest_heat_colour_can_be_read(browser, pages, scheme):
    opened(browser, (pages / "gallery.html").as_uri(), scheme=scheme)
    colours = browser.run("""
        const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
        const seen = (...layers) => {
          paint.clearRect(0, 0, 1, 1);
          for (const colour of layers) { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1); }
          return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        return [...document.querySelectorAll('tbody td')].filter((cell) => cell.style.background).map((cell) => {
          const [own, card] = [getComputedStyle(cell), getComputedStyle(cell.closest('.card'))];
          return [seen(own.color), seen(card.backgroundColor, own.backgroundColor)];
        });
    """)

    def luminance(colour):
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    contrasts = []
    for text, ground in colours:
        low, high = sorted((luminance(text), luminance(ground)))
        contrasts.append((high + 0.05) / (low + 0.05))
    assert len(contrasts) > 20
    assert min(contrasts) >= 4.5


def test_what_is_empty_or_failed_says_so(browser, demo_settings, tmp_path):
    cards = [
        a_card("Nothing", "line", "SELECT today() AS day, 1 AS one WHERE false"),
        a_card("Wrong", "bar", "SELECT x FROM nowhere"),
    ]
    with open_warehouse(demo_settings, purpose="a test", writes=False) as warehouse:
        (tmp_path / "page.html").write_bytes(
            static_page(query_runner(warehouse), a_library(a_dashboard("States", cards)), {})
        )
    opened(browser, (tmp_path / "page.html").as_uri())
    seen = {card["name"]: card for card in browser.run(SEEN)}
    assert (seen["Nothing"]["state"], seen["Wrong"]["state"]) == ("empty", "error")
    assert "Try a longer period" in seen["Nothing"]["said"]
    assert "nowhere" in seen["Wrong"]["said"]
    assert browser.complaints() == []


def test_before_there_are_sessions_one_message_stands_for_all_cards(browser, tmp_path):
    settings = Settings(_env_file=None, warehouse=f"chdb://{tmp_path}/warehouse")
    with open_warehouse(settings, purpose="a test") as warehouse:
        migrate(warehouse, settings)
        write_page(query_runner(warehouse), load_library(), tmp_path / "page.html")
    opened(browser, (tmp_path / "page.html").as_uri())
    [message] = browser.driver.find_elements(By.CSS_SELECTOR, "#grid [data-state]")
    assert message.text.splitlines()[0] == "No sessions are stored yet"
    assert "`carat etl`" in message.text
    assert browser.run(SEEN) == []
    assert browser.complaints() == []


# ---- what shoppers type --------------------------------------------------------------------------------------------

HOSTILE = [
    "</script><script>window.hurt=1</script>", "<img src=x onerror=window.hurt=1>", "<svg/onload=window.hurt=1>", "javascript:window.hurt=1",
    "{a|b} {b|c}", "{{content}}", "${window.hurt=1}", "\u202eright to left", "Zalgo\u0335\u0321\u0322", "line\nbreak\ttab", "💍" * 20, "a" * 290,
]  # fmt: skip


def test_hostile_words_do_no_harm_on_any_display(browser, demo_settings, tmp_path):
    words = list(dict.fromkeys(text for text in HOSTILE + naughty_strings() if text.strip() and len(text) <= 290))
    table = f'SELECT arrayJoin([{", ".join(map(literal, words))}]) AS "<b>Search</b>"'
    few = f'SELECT [{", ".join(map(literal, HOSTILE))}][number + 1] AS "Search", 100 - number AS "<i>Times</i>" FROM numbers({len(HOSTILE)})'
    by_day = f"SELECT toDate('2026-03-01') + number AS day, [{', '.join(map(literal, HOSTILE))}][1 + number % 7] AS word, number AS times FROM numbers(30)"
    cards = [a_card("<u>All</u>", "table", table, "<img src=x onerror=window.hurt=1>")]
    cards += [
        a_card(f"As {display}", display, few) for display in ("row", "bar", "pie", "funnel", "scalar", "smartscalar")
    ]
    cards += [a_card("As lines", "line", by_day, **{"graph.dimensions": ["day", "word"]})]
    with open_warehouse(demo_settings, purpose="a test", writes=False) as warehouse:
        (tmp_path / "page.html").write_bytes(
            static_page(query_runner(warehouse), a_library(a_dashboard("<i>Hostile</i>", cards)), {})
        )
    opened(browser, (tmp_path / "page.html").as_uri())
    seen = {card["name"]: card for card in browser.run(SEEN)}
    assert {card["state"] for card in seen.values()} == {"drawn"}
    said = browser.run(
        "return [...document.querySelectorAll('[data-display=table] tbody td')].map((cell) => cell.textContent)"
    )
    assert len(said) == min(300, len(words))
    assert said[: len(HOSTILE)] == HOSTILE
    for display in ("row", "bar", "line"):
        plot = browser.driver.find_element(By.CSS_SELECTOR, f"[data-display={display}] .plot")
        browser.run("arguments[0].scrollIntoView({block: 'center'})", plot)
        ActionChains(browser.driver).move_to_element_with_offset(plot, 0, -20).perform()
        wait(browser, "return arguments[0].querySelector('.tip-head')?.textContent", plot, seconds=3)
    assert browser.run("return window.hurt") is None
    assert browser.run("return document.querySelectorAll('#grid :is(img, script, iframe, b, i, u, a)').length") == 0
    assert browser.complaints() == []
    assert set(asked(browser)) == {(tmp_path / "page.html").as_uri()}


def test_even_a_script_that_got_in_could_not_reach_out(browser, pages):
    opened(browser, (pages / "gallery.html").as_uri())
    assert browser.run("return fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.hurt = 1'; document.body.append(s)"
    )
    browser.run(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"http://127.0.0.1:9/x.png\" onerror=\"window.hurt = 2\">')"
    )
    assert browser.run("return window.hurt") is None
    assert sum("Content Security Policy" in told for told in browser.complaints()) >= 3


# ---- the live page -------------------------------------------------------------------------------------------------


@contextmanager
def serving(settings, tmp_path, *arguments: str):
    """`carat dashboards preview --serve` in a process of its own; its address."""
    environment = {
        "PATH": os.environ["PATH"],
        "CARAT_WAREHOUSE": settings.warehouse.with_password(),
        "CARAT_LOG": str(tmp_path / "log"),
    }
    command = [sys.executable, "-m", "app", "dashboards", "preview", "--serve", "--port", "0", *arguments]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert "http://" in line, f"{line} {process.stderr.read() if process.stderr else ''}"
            yield re.findall(r"http://\S+", line)[0], process
        finally:
            process.terminate()
            assert process.wait(timeout=20) == 0


def test_filters_of_the_live_page_change_the_numbers_to_those_of_the_warehouse(browser, demo_settings, tmp_path):
    sessions = "SELECT count() FROM dwh.sessions WHERE NOT is_bot"
    with open_warehouse(demo_settings, purpose="a test", writes=False) as warehouse:
        read = query_runner(warehouse)
        expected = {
            where: f"{parse_result(read(f'{sessions} AND {where}'))['rows'][0][0]:,}"
            for where in (
                "session_date IN (SELECT day FROM dwh.days WHERE is_recent)",
                "session_date IN (SELECT day FROM dwh.days WHERE is_recent) AND device_type = 'mobile'",
                "session_date BETWEEN '2026-03-02' AND '2026-03-04' AND device_type = 'mobile'",
            )
        }
    figure = "return [...document.querySelectorAll('.card')].find((card) => card.querySelector('h3')?.textContent === 'Sessions').querySelector('.big').textContent"
    put = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))"
    with serving(demo_settings, tmp_path) as (url, process):
        opened(browser, url)
        seen = [browser.run(figure)]

        def find(name):
            return browser.driver.find_element(By.NAME, name)

        turned(browser, lambda: Select(find("device")).select_by_value("mobile"))
        seen.append(browser.run(figure))
        first, last = find("date-from"), find("date-to")

        def choose_days():
            browser.run(put, first, "2026-03-02")
            browser.run(put, last, "2026-03-04")

        turned(browser, choose_days)
        seen.append(browser.run(figure))
        assert seen == list(expected.values())
        assert len(set(seen)) == 3
        browser.keep_picture(PICTURES / "live-light.png")
        assert {one.text for one in Select(find("channel")).options} > {"all", "Direct", "Organic Search"}
        chosen = browser.run("return location.hash")
        assert chosen == "#store_overview/0?date=2026-03-02%7E2026-03-04&device=mobile"
        asked_of = asked(browser)
        turned(browser, browser.driver.refresh)
        assert browser.run(figure) == seen[-1]  # a link says which filters were chosen
        assert Select(find("device")).first_selected_option.text == "mobile"
        turned(browser, lambda: browser.run("location.hash = '#warehouse_health/0'"))
        offered = "return [...document.querySelectorAll('#filters label')].filter((one) => !one.hidden).map((one) => one.firstChild.textContent)"
        assert browser.run(offered) == ["Date"]
        turned(browser, lambda: browser.run("location.hash = '#shopper_journey/0'"))
        assert {card["state"] for card in browser.run(SEEN)} == {"drawn"}
        assert browser.complaints() == []
        paths = {address.partition("?")[0].partition("#")[0] for address in (*asked_of, *asked(browser))}
        assert paths == {url, f"{url}api/cards", f"{url}api/insights"}
        process.terminate()
        process.wait(timeout=20)
        Select(find("device")).select_by_value("tablet")
        wait(browser, "const told = document.getElementById('status'); return !told.hidden && told.textContent")
        assert {card["state"] for card in browser.run(SEEN)} == {"drawn"}  # what was known is still shown


def test_carat_serve_shows_the_dashboards_beside_its_work_and_ends_with_it(demo_settings, tmp_path):
    environment = {
        "PATH": os.environ["PATH"], "CARAT_WAREHOUSE": demo_settings.warehouse.with_password(),
        "CARAT_WRITE_KEYS": "a-key-for-tests-0123456789abcdef", "CARAT_SPOOL": str(tmp_path / "spool"),
        "CARAT_LOG": str(tmp_path / "log"),
    }  # fmt: skip
    (tmp_path / "app").mkdir()  # as many a shop's folder has one: it is not taken for Carat
    command = [sys.executable, "-P", "-m", "app", "serve", "--port", "0", "--page-port", "0"]
    with (
        (tmp_path / "said").open("w+") as said,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=said, stderr=said) as process,
    ):
        try:
            found = None
            for _ in range(600):
                text = (tmp_path / "said").read_text(encoding="utf-8")
                assert process.poll() is None, text
                if found := re.search(r"dashboards are at (http://\S+/)", text):
                    break
                time.sleep(0.05)
            assert found, text
            status = 503
            for _ in range(200):  # the warehouse is opened while the page is there already
                with (
                    suppress(HTTPError),
                    urlopen(f"{found[1]}api/cards?dashboard=store_overview", timeout=30) as answer,
                ):
                    status, results = answer.status, json.load(answer)["results"]
                    break
                time.sleep(0.1)
            assert status == 200
            assert all(own.get("rows") for own in results.values())
        finally:
            process.terminate()
            assert process.wait(timeout=40) == 0
    with pytest.raises(OSError):
        urlopen(found[1], timeout=5)
