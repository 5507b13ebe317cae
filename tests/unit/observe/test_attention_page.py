import base64
import re
from html.parser import HTMLParser

from sar_dist.reports.attention_page import PictureSection, attention_page


class Elements(HTMLParser):
    """Names of the elements, in order, and the cells of the tables; fails on an element that is not closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.sources, self.cells, self.headings = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.sources.append(dict(attributes)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def test_the_page_holds_its_pictures_and_figures():
    sections = [
        PictureSection("a <b> & c.jpg", b"first", [0.5, 1.0], [1, 4]),
        PictureSection("d.jpg", b"second", [0.0, 0.0], [0, 0]),
    ]
    page = attention_page("ViT <S>", sections)
    elements = Elements(page)
    assert elements.headings == ["ViT <S>", "a <b> & c.jpg", "d.jpg"]
    assert [base64.b64decode(source.partition(",")[2]) for source in elements.sources] == [b"first", b"second"]
    assert "<dt>spatial entropy H</dt><dd>0.375</dd>" in page  # of all images and heads
    assert elements.cells[:12] == [
        "head",
        "0",
        "1",
        "mean",
        "H (nats)",
        "0.500",
        "1.000",
        "0.750",
        "components",
        "1",
        "4",
        "2.5",
    ]


def test_the_page_needs_no_other_file():
    page = attention_page("x", [PictureSection("x", b"png", [0.0], [1])])
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "url(" not in page
