"""What the tests ask of a page: whether its elements are closed, and what axe-core finds in a browser."""

import html
import html.parser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = os.environ.get("OSTEOJAX_TEST_AXE", "")
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="no chromium")


class Outline(html.parser.HTMLParser):
    """Every element is closed, in order; collects what the tests ask for."""

    VOID = frozenset(("meta", "img", "br", "line", "polyline", "polygon", "circle", "rect", "input", "link"))

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def outline(text_of_page):
    found = Outline()
    found.feed(text_of_page)
    assert found.open == []
    return found


def violations(page, folder, *, width, dark):
    """What axe-core finds wrong with a page, in a window of this width."""
    if not Path(AXE).is_file():
        pytest.skip("no axe-core: npm pack axe-core, unpack, and set OSTEOJAX_TEST_AXE to its axe.min.js")
    script = (
        f"<script>{Path(AXE).read_text()}</script><script>axe.run().then(r => {{document.body.innerHTML = "
        "'<pre>FOUND' + JSON.stringify(r.violations.map(v => [v.id, v.impact, v.nodes.map(n => n.html)])) + "
        "'END</pre>'})</script>"
    )
    (folder / "page.html").write_text(page.replace("</body>", script + "</body>"))
    call = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    call += ["--virtual-time-budget=30000", "--dump-dom", f"--user-data-dir={folder}/profile"]
    call += ["--blink-settings=preferredColorScheme=0"] * dark
    done = subprocess.run([*call, f"file://{folder}/page.html"], capture_output=True, text=True, timeout=180)
    found = re.search("FOUND(.*)END", done.stdout, re.DOTALL)
    assert found, done.stdout[-500:]
    return json.loads(html.unescape(found[1]))
