"""The page in a real browser, on a real server: what a user does, and that nothing leaves for elsewhere."""

import base64
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from loradar.serve.app import create_app
from loradar.serve.auth import read_keys
from loradar.serve.config import ServeConfig
from loradar.serve.server import bind
from loradar.serve.service import open_service
from tests.guard import toys
from tests.serve.test_app import png

CHROMIUM = Path("/usr/bin/chromium")
PREDICT, ADMIN = "p" * 16, "a" * 16
NAME = "<img src=x onerror=alert(1)>.png"
DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, { type: "image/png" }));
  const drop = document.getElementById("drop");
  for (const kind of ["dragover", "drop"]) drop.dispatchEvent(new DragEvent(kind, { dataTransfer: carried, bubbles: true }));
}"""
WIDER = "document.documentElement.scrollWidth > window.innerWidth"
SCROLLS = "[...document.querySelectorAll('.scroll')].some((one) => one.scrollWidth > one.clientWidth)"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"

pytestmark = pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"there is no browser at {CHROMIUM}")


@pytest.fixture(scope="module")
def address(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"predict {PREDICT}\nadmin {ADMIN}\n")
    models = [f"toys@v1={places['guard']}", f"toys@v2={places['guard']}", f"plain={places['adapter']}"]
    config = ServeConfig(
        models=models, base=str(places["base"]), port=0, device="cpu", precision="fp32", try_attacks=True
    )
    service, keys = open_service(config), read_keys(file)
    with bind(config, keys) as bound:
        server = uvicorn.Server(uvicorn.Config(create_app(service, keys), log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join()
    service.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        expect.set_options(timeout=20_000)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, whose every request must go to the server, and which must say nothing in its console."""
    page = browser.new_page()
    page.set_default_timeout(20_000)
    asked, said = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(address)
    yield page
    elsewhere = [url for url in asked if not url.startswith((f"{address}/", f"blob:{address}/"))]
    page.close()
    assert asked
    assert elsewhere == []
    # the browser itself tells of requests that were declined
    assert [line for line in said if not line.startswith("Failed to load resource")] == []


def picture(kind: str) -> bytes:
    x = toys.smooth_images(1, seed=3)
    return png(toys.attacked(kind, x)[0])


def enter(page: Page, key: str) -> None:
    page.get_by_label("Key").fill(key)
    page.get_by_label("Key").press("Enter")
    expect(page.locator("#role")).to_be_visible()


def drop(page: Page, kind: str, name: str = "picture.png") -> None:
    page.evaluate(DROP, [name, base64.b64encode(picture(kind)).decode()])


def test_a_dropped_picture_gets_a_verdict(page: Page) -> None:
    expect(page.get_by_role("alert")).to_contain_text("a key is needed")
    expect(page.get_by_label("Key")).to_be_focused()
    drop(page, "patch", NAME)  # it waits for the key
    enter(page, PREDICT)
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#suspected")).to_contain_text("suspected: patch")
    expect(page.locator("#whose")).to_have_text("toys@v1")
    expect(page.locator("#votes th")).to_have_text(["guard", "base", "patch", "noise"])
    expect(page.locator("#name")).to_have_text(NAME)  # a name is text
    frame, region = page.locator(".frame img").bounding_box(), page.locator(".region").bounding_box()
    assert frame is not None
    assert region is not None
    # rows 8 to 12 and columns 20 to 24 of 32
    assert (region["x"] - frame["x"]) / frame["width"] == pytest.approx(20 / 32, abs=0.02)
    assert (region["y"] - frame["y"]) / frame["height"] == pytest.approx(8 / 32, abs=0.02)
    assert region["width"] / frame["width"] == pytest.approx(5 / 32, abs=0.02)
    drop(page, "noise")
    expect(page.locator("#suspected")).to_contain_text("suspected: noise")
    expect(page.locator(".region")).to_have_count(0)
    expect(page.locator("#traffic svg")).to_have_attribute(
        "aria-label", "Suspected share of the last 200 images: 100.0\u00a0%, level calm."
    )
    # a predict key neither attacks nor swaps
    expect(page.locator("#attack")).to_be_hidden()
    expect(page.get_by_role("button", name="Activate")).to_have_count(0)


def test_the_key_stays_in_the_tab(page: Page, address: str) -> None:
    enter(page, ADMIN)
    stored = page.evaluate("[sessionStorage.length, localStorage.length, document.cookie, location.href]")
    assert stored == [1, 0, "", f"{address}/"]
    page.reload()
    expect(page.locator("#role")).to_have_text("admin key")
    page.get_by_label("Key").fill("")
    page.get_by_role("button", name="Use").click()
    expect(page.get_by_role("alert")).to_contain_text("a key is needed")
    assert page.evaluate("sessionStorage.length") == 0


def test_attacks_and_versions_by_keyboard_alone(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "noise.png"
    file.write_bytes(picture("noise"))
    page.on("filechooser", lambda _: None)  # the browser hands over choosers from here on, not only once one is awaited
    enter(page, ADMIN)
    page.keyboard.press("Tab")  # the button of the key
    page.keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(file)
    expect(page.locator("#suspected")).to_contain_text("noise")
    for wanted in ("attack-name", "against", "attack-go"):
        page.keyboard.press("Tab")
        expect(page.locator(f"#{wanted}")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#tried th")).to_have_text(["guard", "base", "patch", "noise"])
    expect(page.locator("figure")).to_have_count(2)
    expect(page.locator("figure").nth(1).locator(".region")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="save it").click()
    assert download.value.suggested_filename == "patch.png"
    attacked = download.value.path().read_bytes()
    said = page.locator("#attacked-answer").inner_text()
    page.locator("#file").set_input_files({"name": "again.png", "mimeType": "image/png", "buffer": attacked})
    expect(page.locator("#tried")).to_have_count(0)
    expect(page.locator("#answer")).to_have_text(said)  # the file is what was attacked

    page.get_by_role("button", name="Activate v2").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#whose")).to_have_text("toys@v2")
    expect(page.get_by_role("row", name="v2")).to_contain_text("active")
    expect(page.get_by_role("button", name="Activate v2")).to_have_count(0)
    page.get_by_role("button", name="Back to the version before").click()
    expect(page.locator("#whose")).to_have_text("toys@v1")


def test_it_says_what_the_server_declines(page: Page) -> None:
    enter(page, ADMIN)
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.get_by_role("alert")).to_contain_text("image 0 is no picture")
    drop(page, "patch")
    expect(page.get_by_role("alert")).to_be_hidden()
    page.get_by_label("Model").select_option("plain")
    expect(page.locator("#whose")).to_have_text("plain@v1")
    expect(page.locator("#votes tr")).to_have_count(5)
    expect(page.locator("#traffic")).to_contain_text("Only guards")


def test_names_from_the_server_are_text(page: Page) -> None:
    def hostile(route: Route) -> None:
        reply = route.fetch()
        route.fulfill(response=reply, body=reply.text().replace('"patch"', '"<img src=x onerror=alert(1)>"'))

    page.route("**/inspect", hostile)
    enter(page, ADMIN)
    drop(page, "patch")
    expect(page.locator("#suspected")).to_contain_text("suspected: <img src=x onerror=alert(1)>")
    expect(page.locator("#attack-name option").first).to_have_text("<img src=x onerror=alert(1)>")
    assert page.locator("img[src=x]").count() == 0


def test_dark_and_narrow(page: Page) -> None:
    enter(page, ADMIN)
    drop(page, "patch")
    expect(page.locator("#votes")).to_be_visible()
    page.emulate_media(color_scheme="light")
    light = page.evaluate(BACKGROUND)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(BACKGROUND)
    assert (light, dark) == ("rgb(244, 245, 247)", "rgb(14, 17, 22)")
    page.locator("#attack-go").click()
    expect(page.locator("#tried")).to_be_visible()
    for width in (1280, 800, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert not page.evaluate(WIDER), width
        assert not page.evaluate(SCROLLS), width
