"""Drives the annotation pages in a real browser and compares the journal with what was shown.

Every widget is used by keyboard; the page is read back (which buttons are pressed, which words are marked) and must be
what the journal says. Also: two tabs, a server that is killed while an answer is on its way, reloading, hostile texts,
adjudication, accessible names, a narrow screen.

    check.py TRUING SCRATCH [--chromium PATH]
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys

from playwright.sync_api import expect, sync_playwright

TOKENS = {"ana": "token-of-ana-1", "ben": "token-of-ben-1", "eve": "token-of-eve-1", "owner": "token-of-owner"}
HOSTILE = "<img src=x onerror=alert(1)> <script>alert(2)</script> & <b>bold</b>"
RECIPE = """
output_dir = "project"
title = "Check"
guidelines = "guidelines.md"
overlap = 2
owner_token = "{owner}"
data = [{{ path = "items.jsonl" }}]
annotator = [{{ name = "ana", token = "{ana}" }}, {{ name = "ben", token = "{ben}" }}]
adjudicator = [{{ name = "eve", token = "{eve}" }}]

[[question]]
name = "preference"
annotation_type = "ranking"

[[question]]
name = "ratings"
annotation_type = "scale"
labels = ["helpfulness", "safety"]

[[question]]
name = "errors"
annotation_type = "spans"

[[question]]
name = "better"
annotation_type = "pairwise"

[[question]]
name = "correction"
annotation_type = "edit"
required = false

[[question]]
name = "topic"
annotation_type = "label"
labels = ["history", "cooking", "travel"]
multiple = true
"""
ITEMS = [
    {"id": "three", "priority": 3, "prompt": "When was the bridge built?", "responses": [
        "The bridge was built in 1890.", "桥建于1890年。很漂亮 🌉 真的。", HOSTILE]},
    {"id": "two", "priority": 2, "prompt": [{"role": "user", "content": "Name a soup."}],
     "responses": ["Minestrone.\r\nIt is hot.", "Bread."]},
    {"id": "skipped", "priority": 1, "prompt": "Say nothing.", "responses": ["", "a"]},
    {"id": "last", "priority": 0, "prompt": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": {
            "name": "get_weather", "arguments": '{"city": "Bern"}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "user", "content": "Say b."}],
     "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}],
     "responses": ["b", "c"]},
]
TEXTS = {item["id"]: item["responses"] for item in ITEMS}


class Server:
    """The program that is tested."""

    def __init__(self, truing, folder):
        self.command = [truing, "annotate", "serve", str(folder / "recipe.toml")]
        self.port = 0
        self.start()

    def start(self):
        command = [*self.command, "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.startswith("listening on "):
                self.port = int(line.split()[2].rsplit(":", 1)[1].strip("/(),"))
                return
        sys.exit("the server did not start")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=30) == 0, "the server stops when it is asked to"

    def link(self, name, path=""):
        return f"http://127.0.0.1:{self.port}/{path}?token={TOKENS[name]}"


class Check:
    """One browser and what the journal should hold."""

    def __init__(self, browser, server, folder):
        self.browser, self.server = browser, server
        self.journal = folder / "project" / "annotations.jsonl"

    def entries(self):
        return [json.loads(line) for line in self.journal.read_text(encoding="utf-8").splitlines()]

    def last(self, name, item):
        return [e for e in self.entries() if e["annotator"] == name and e["item"] == item][-1]

    def open(self, name, context=None, **settings):
        context = context or self.browser.new_context(**settings)
        page = context.new_page()
        page.on("dialog", lambda dialog: sys.exit(f"a text was run as a script: {dialog.message}"))
        page.on("pageerror", lambda error: sys.exit(f"an error of the page: {error}"))
        page.goto(self.server.link(name))
        expect(page.locator("#main")).to_be_visible()
        return page

    def submit(self, page):
        """Submits by key and waits for the tick."""
        before = len(self.entries()) if self.journal.exists() else 0
        page.keyboard.press("Control+Enter")
        expect(page.locator("#saved")).to_have_text("✓ saved")
        assert len(self.entries()) == before + 1, "the tick is shown after the answer is in the journal"


def order_of(page):
    """The responses by their places in the row, in the order of the page."""
    return page.evaluate("item.responses.map((response) => response.index)")


def pressed(page, name):
    """The pressed button of a row."""
    row = page.get_by_role("group", name=name, exact=True)
    found = row.locator("button[aria-pressed=true]").all_inner_texts()
    assert len(found) <= 1, found
    return found[0] if found else None


def shown_ranks(page, n):
    """The ranks that the page shows, in the order of the row."""
    order = order_of(page)
    ranks = [None] * n
    for place in range(n):
        ranks[order[place]] = int(pressed(page, f"preference, response {chr(65 + place)}, rank"))
    return ranks


def shown_ratings(page, n, aspects):
    order = order_of(page)
    ratings = {aspect: [None] * n for aspect in aspects}
    for aspect in aspects:
        for place in range(n):
            ratings[aspect][order[place]] = int(pressed(page, f"{aspect}, response {chr(65 + place)}"))
    return ratings


def focus(page, name):
    page.get_by_role("group", name=name, exact=True).focus()


def rank_and_rate(page, n, ranks, point):
    """Ranks by the keys of the cards; the row after each answer is the next one."""
    for place in range(n):
        focus(page, f"preference, response {chr(65 + place)}, rank")
        # The rank, then both aspects of the same card.
        for key in (ranks[place], point, point):
            page.keyboard.press(str(key))


def check_every_widget(check):
    page = check.open("ana")
    assert page.locator("#who").inner_text() == "ana"
    assert "Be fair." in page.locator("#guidelines-text").text_content()
    order = order_of(page)
    shown = [page.get_by_role("article", name=f"Response {chr(65 + place)}").locator(".text").text_content()
             for place in range(3)]
    assert shown == [TEXTS["three"][index] for index in order], "texts are shown as they are"
    # Two tied before the third. Other keys first, to see that the last one counts, and that a row can be cleared.
    rank_and_rate(page, 3, (2, 1, 1), 4)
    focus(page, "preference, response A, rank")
    page.keyboard.press("Backspace")
    assert pressed(page, "preference, response A, rank") is None
    expect(page.locator("#submit")).to_be_disabled()
    page.keyboard.press("3")
    # Words of the Chinese response, by keys; then the whole text of the hostile one, with a click on the kind.
    chinese = order.index(1)
    focus(page, f"Mark errors in response {chr(65 + chinese)}")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("1")
    hostile = order.index(2)
    row = page.get_by_role("group", name=f"Mark errors in response {chr(65 + hostile)}", exact=True)
    row.focus()
    row.locator(".text").evaluate("(text) => getSelection().selectAllChildren(text)")
    row.get_by_role("button", name="as logical").click()
    marked = [page.locator("mark").nth(idx).text_content() for idx in range(page.locator("mark").count())]
    assert HOSTILE in marked and len(marked) == 2, marked
    # Several labels.
    focus(page, "topic")
    page.keyboard.press("3")
    page.keyboard.press("1")
    # The best by E needs a single best; B and C are tied.
    page.keyboard.press("e")
    assert page.get_by_role("group", name="correction", exact=True).locator("button[aria-pressed=true]").count() == 0
    shown_by_page = shown_ranks(page, 3), shown_ratings(page, 3, ["helpfulness", "safety"])
    assert sorted(shown_by_page[0]) == [1, 1, 3]
    check.submit(page)
    entry = check.last("ana", "three")
    assert entry["kind"] == "answer" and entry["order"] == order
    answers = entry["answers"]
    assert answers["preference"]["ranks"] == shown_by_page[0], answers
    assert answers["ratings"]["ratings"] == shown_by_page[1], answers
    assert sorted(answers["topic"]["labels"]) == ["history", "travel"], answers
    spans = answers["errors"]["spans"]
    for span in spans:
        text = TEXTS["three"][span["response"]].encode()
        assert text[span["start"]:span["end"]].decode() == span["text"], span
    assert sorted(span["text"] for span in spans) == sorted(marked), (spans, marked)
    assert {span["label"] for span in spans} == {"factual", "logical"}
    assert "correction" not in answers and "better" not in answers
    return page


def check_pair_and_edit(check, page):
    expect(page.get_by_role("group", name="better", exact=True)).to_be_visible()
    order = order_of(page)
    rank_and_rate(page, 2, (1, 2), 5)
    for key, name in (("0", "Tie"), ("2", "B is better"), ("1", "A is better")):
        focus(page, "better")
        page.keyboard.press(key)
        assert pressed(page, "better") == name
    focus(page, "topic")
    page.keyboard.press("2")
    # E edits the response that is ranked first.
    page.keyboard.press("e")
    page.keyboard.press("Enter")
    area = page.get_by_role("textbox", name="correction: corrected text")
    expect(area).to_be_focused()
    page.keyboard.press("Control+End")
    page.keyboard.type(" Tested 1 2 3.")
    page.keyboard.press("Escape")
    original = TEXTS["two"][order[0]]
    expected = original.replace("\r\n", "\n") + " Tested 1 2 3."
    assert area.input_value() == expected
    # What was entered survives a reload.
    page.reload()
    expect(page.get_by_role("textbox", name="correction: corrected text")).to_have_value(expected)
    assert pressed(page, "better") == "A is better"
    check.submit(page)
    answers = check.last("ana", "two")["answers"]
    ranks = [None, None]
    ranks[order[0]], ranks[order[1]] = 1, 2
    assert answers["preference"]["ranks"] == ranks and answers["better"]["ranks"] == ranks, answers
    assert answers["correction"] == {"response": order[0], "text": expected}, answers
    assert answers["errors"] == {"spans": []}, answers


def check_skip_and_previous(check, page):
    expect(page.locator("#prompt")).to_contain_text("Say nothing.")
    page.keyboard.press("Shift+S")
    expect(page.locator("#prompt")).to_contain_text("Say b.")
    entry = check.last("ana", "skipped")
    assert entry["kind"] == "skip" and entry["answers"] == {}, entry
    page.keyboard.press("Shift+P")
    expect(page.locator("#prompt")).to_contain_text("Say nothing.")
    page.keyboard.press("Shift+P")
    expect(page.locator("#prompt")).to_contain_text("Name a soup.")
    # A stored answer is shown again, and a changed one is a new version.
    focus(page, "better")
    assert pressed(page, "better") == "A is better"
    page.keyboard.press("0")
    check.submit(page)
    entry = check.last("ana", "two")
    assert entry["version"] == 2 and entry["answers"]["better"]["ranks"] == [1, 1], entry


def check_killed_server(check, page):
    """An answer that is submitted while the server is down is stored once it is back, and once only."""
    expect(page.locator("#prompt")).to_contain_text("Say b.")
    expect(page.locator("#prompt")).to_contain_text('calls get_weather: { "city": "Bern" }')
    expect(page.locator("#prompt")).to_contain_text("Tools: 1")
    rank_and_rate(page, 2, (1, 1), 3)
    focus(page, "better")
    page.keyboard.press("0")
    focus(page, "topic")
    page.keyboard.press("1")
    n_before = len(check.entries())
    check.server.kill()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#saved")).to_contain_text("not saved yet")
    waiting = page.evaluate("outbox.read()")
    assert len(waiting) == 1
    # The browser's tab may go as well: what waits is in the browser.
    context = page.context
    page.close()
    check.server.start()
    page = context.new_page()
    page.goto(check.server.link("ana"))
    expect(page.locator("#notice")).to_contain_text("nothing more for you")
    entries = check.entries()
    assert len(entries) == n_before + 1 and entries[-1]["submission"] == waiting[0]["submission"], entries[-1]
    assert page.evaluate("outbox.read()") == []
    page.close()


def check_two_tabs(check):
    """Ben in two tabs: the second one is told, and may replace the answer."""
    first = check.open("ben")
    second = check.open("ben", first.context)
    for page, ranks in ((first, (3, 2, 1)), (second, (1, 1, 1))):
        rank_and_rate(page, 3, ranks, 2)
        focus(page, "topic")
        page.keyboard.press("1")
    # The draft is shared; what each tab shows is its own.
    stored = shown_ranks(first, 3)
    check.submit(first)
    assert check.last("ben", "three")["answers"]["preference"]["ranks"] == stored
    second.keyboard.press("Control+Enter")
    expect(second.locator("#refused")).to_contain_text("Another answer to this item was stored")
    assert check.last("ben", "three")["version"] == 1
    second.get_by_role("button", name="Replace it with mine").click()
    expect(second.locator("#saved")).to_have_text("✓ saved")
    entry = check.last("ben", "three")
    assert entry["version"] == 2 and entry["answers"]["preference"]["ranks"] == [1, 1, 1], entry
    first.context.close()


def check_adjudication(check):
    page = check.open("eve")
    panels = page.locator("#others .panel")
    expect(panels).to_have_count(2)
    text = page.locator("#others").inner_text()
    assert "ana" not in text.split() and "ben" not in text.split(), "answers are anonymous"
    panels.nth(0).get_by_role("button").click()
    taken = shown_ranks(page, 3)
    check.submit(page)
    entry = check.last("eve", "three")
    assert entry["kind"] == "adjudication" and entry["answers"]["preference"]["ranks"] == taken, entry
    both = [check.last(name, "three")["answers"]["preference"]["ranks"] for name in ("ana", "ben")]
    assert taken in both
    page.context.close()


def check_looks(check, folder):
    """Names of all controls, no sideways scrolling on a phone, a dark page where it is asked for, the owner's page."""
    page = check.open("ben", viewport={"width": 360, "height": 700}, color_scheme="dark")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, textarea, select, input, [role=group]')].filter((control) =>"
        " !(control.getAttribute('aria-label') || control.textContent.trim())).map((control) => control.outerHTML)")
    assert unnamed == [], unnamed
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, "nothing is wider than a phone"
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red, green, blue = (int(part) for part in back[4:-1].split(","))
    assert red + green + blue < 200, back
    page.screenshot(path=folder / "phone.png", full_page=True)
    page.context.close()
    page = check.browser.new_context().new_page()
    page.goto(check.server.link("owner", "status"))
    for heading in ("Progress", "Annotators", "Agreement"):
        expect(page.get_by_role("heading", name=heading)).to_be_visible()
    assert "token" not in page.url
    page.screenshot(path=folder / "status.png", full_page=True)
    page.context.close()


def check_edits_and_ways(check):
    """Corrections of each response are kept; going back and forward stores nothing; a skip of an answer asks."""
    page = check.open("ben")
    expect(page.locator("#prompt")).to_contain_text("Name a soup.")
    area = page.get_by_role("textbox", name="correction: corrected text")
    focus(page, "correction")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.keyboard.type("Typed. ")
    page.keyboard.press("Escape")
    typed = area.input_value()
    assert "Typed." in typed, typed
    page.keyboard.press("2")
    assert "Typed." not in area.input_value()
    for key in ("1", "Backspace", "1"):
        page.keyboard.press(key)
    assert area.input_value() == typed, area.input_value()
    # The capital letter of Caps Lock is no Shift+S.
    page.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'S', bubbles: true}))")
    rank_and_rate(page, 2, (1, 2), 5)
    focus(page, "better")
    page.keyboard.press("1")
    focus(page, "topic")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert pressed(page, "topic") == "history"
    covered = page.evaluate(
        "rows().every((row) => { row.element.focus(); row.element.scrollIntoView({block: 'nearest'});"
        " const [low, high] = [row.element, at('actions')].map((part) => part.getBoundingClientRect());"
        " return low.bottom <= high.top + 1 || row.element.offsetHeight > innerHeight - high.height; })")
    assert covered, "the focused row is not under the footer"
    check.submit(page)
    expect(page.locator("#prompt")).to_contain_text("Say nothing.")
    n_before = len(check.entries())
    page.reload()
    expect(page.locator("#prompt")).to_contain_text("Say nothing.")
    page.keyboard.press("Shift+P")
    expect(page.locator("#prompt")).to_contain_text("Name a soup.")
    page.keyboard.press("Shift+S")
    expect(page.locator("#notice")).to_contain_text("You have answered this item.")
    page.get_by_role("button", name="Keep the answer").click()
    page.keyboard.press("Shift+N")
    expect(page.locator("#prompt")).to_contain_text("Say nothing.")
    assert len(check.entries()) == n_before
    return page


def check_full_storage(check, page):
    """A browser that can keep nothing more sends what is entered, says so, and does not freeze."""
    page.evaluate(
        "for (const size of [1 << 20, 1 << 12, 1 << 5]) try {"
        " for (let n = 0; ; n += 1) localStorage.setItem('fill-' + size + '-' + n, 'x'.repeat(size)); } catch {}")
    rank_and_rate(page, 2, (1, 2), 3)
    focus(page, "better")
    page.keyboard.press("1")
    focus(page, "topic")
    page.keyboard.press("2")
    expect(page.locator("#storage")).to_contain_text("storage of this browser is full")
    check.submit(page)
    assert check.last("ben", "skipped")["answers"]["topic"] == {"labels": ["cooking"]}
    expect(page.locator("#storage")).to_be_hidden()
    page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('fill-'))"
                  ".forEach((key) => localStorage.removeItem(key))")


def check_refused_while_loading(check, page):
    """What waits in the browser and is refused when the page loads stays on the page until the person decides."""
    expect(page.locator("#prompt")).to_contain_text("Say b.")
    page.keyboard.press("Shift+P")
    expect(page.locator("#prompt")).to_contain_text("Say nothing.")
    wait = ("([id, change]) => outbox.add({submission: id, item: item.item, item_digest: item.item_digest, version: 0,"
            " skip: false, answers: {...item.answers, correction: {response: 1, text: 'Mine, ' + id}},"
            " order: orderShown(), started_ms: 1, finished_ms: 2, ...change})")
    page.evaluate(wait, ["stale", {}])
    page.evaluate(wait, ["changed", {"item_digest": "00" * 32}])
    for _ in range(2):
        page.reload()
        expect(page.locator("#prompt")).to_contain_text("Say b.")
        refused = page.locator("#refused article")
        expect(refused).to_have_count(2)
    changed = refused.filter(has_text="Mine, changed")
    expect(changed).to_contain_text("the item is another one than was shown")
    changed.get_by_role("button", name="Copy text").click()
    assert "Mine, changed" in page.evaluate("getSelection().toString()")
    changed.get_by_role("button", name="Discard").click()
    expect(refused).to_have_count(1)
    expect(refused).to_contain_text("Another answer to this item was stored since")
    refused.get_by_role("button", name="Replace it with mine").click()
    expect(refused).to_have_count(0)
    expect(page.locator("#saved")).to_have_text("✓ saved")
    entry = check.last("ben", "skipped")
    assert entry["version"] == 2 and entry["answers"]["correction"]["text"] == "Mine, stale", entry


def check_two_waiting_tabs(check, page):
    """Two tabs wait for a server that is down; whichever sends both answers, neither stays waiting."""
    pages = [page, check.open("ben", page.context)]
    for one, rank in zip(pages, (1, 2)):
        expect(one.locator("#prompt")).to_contain_text("Say b.")
        rank_and_rate(one, 2, (rank, 1), 3)
        focus(one, "better")
        one.keyboard.press("0")
        focus(one, "topic")
        one.keyboard.press(str(rank))
    check.server.kill()
    for one in pages:
        one.keyboard.press("Control+Enter")
        expect(one.locator("#saved")).to_contain_text("not saved yet")
    check.server.start()
    for one in pages:
        expect(one.locator("#refused article")).to_have_count(1, timeout=40_000)
        expect(one.locator("#saved")).not_to_contain_text("not saved yet")
        assert one.evaluate("waiting === null && outbox.read().length === 0")
    pages[1].get_by_role("button", name="Keep the stored answer").click()
    for one in pages:
        expect(one.locator("#refused article")).to_have_count(0)
    assert check.last("ben", "last")["version"] == 1
    page.context.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("truing")
    parser.add_argument("scratch", type=pathlib.Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    folder = arguments.scratch
    (folder / "recipe.toml").write_text(RECIPE.format(**TOKENS), encoding="utf-8")
    (folder / "guidelines.md").write_text("# Guidelines\n\nBe fair.\n", encoding="utf-8")
    rows = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in ITEMS)
    (folder / "items.jsonl").write_text(rows, encoding="utf-8")
    server = Server(arguments.truing, folder)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
            check = Check(browser, server, folder)
            page = check_every_widget(check)
            check_pair_and_edit(check, page)
            check_skip_and_previous(check, page)
            check_killed_server(check, page)
            check_two_tabs(check)
            check_adjudication(check)
            check_looks(check, folder)
            page = check_edits_and_ways(check)
            check_full_storage(check, page)
            check_refused_while_loading(check, page)
            check_two_waiting_tabs(check, page)
            browser.close()
        server.stop()
    finally:
        server.kill()
    print(f"annotation pages: {len(check.entries())} entries as shown")


if __name__ == "__main__":
    main()
