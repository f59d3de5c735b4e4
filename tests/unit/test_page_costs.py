"""What pages are expected to cost, from what the file says of them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pikepdf
import pytest
from PIL import Image

from tasks.pdf.costs import PageWeight, page_costs, weights_of
from tasks.pdf.preflight import check


def scan(size: float, *, coding: str = "/CCITTFaxDecode", has_text: bool = False) -> PageWeight:
    """A page that is one image."""
    return PageWeight(drawn=40, images=size, coding=coding, has_text=has_text)


TEXT = PageWeight(drawn=3_000, images=0, coding="", has_text=True)


def test_crowded_scans_cost_more_than_empty_ones() -> None:
    """Among pages of one make; a page costs 1 on average."""
    sparse, usual, dense = page_costs([scan(10_000), scan(40_000), scan(80_000)], keeps_text=True)
    assert sparse < usual < dense
    assert sparse + usual + dense == pytest.approx(3, abs=0.2)


def test_another_coding_is_no_more_work() -> None:
    """The same page is ten times as large as JPEG."""
    costs = page_costs([scan(40_000)] * 5 + [scan(400_000, coding="/DCTDecode")] * 5, keeps_text=True)
    assert max(costs) == pytest.approx(min(costs))


def test_pages_that_are_kept_cost_next_to_nothing() -> None:
    """Unless they are read all the same."""
    kept, read = (page_costs([TEXT, scan(40_000)], keeps_text=keeps) for keeps in (True, False))
    assert kept[0] < 0.1 < kept[1]
    assert read[0] == pytest.approx(read[1])


def test_a_logo_on_a_page_with_text_is_no_scan() -> None:
    """A scan beside a stamp is."""
    logo = PageWeight(drawn=3_000, images=900, coding="", has_text=True)
    stamped = scan(40_000, has_text=True)
    costs = page_costs([logo, stamped], keeps_text=True)
    assert costs[0] < 0.1 < costs[1]


def test_pages_that_nobody_asked_for_are_only_looked_at() -> None:
    """Pages 2 and 3 of three."""
    costs = page_costs([scan(40_000)] * 3, keeps_text=True, asks_for=lambda page: page > 1)
    assert costs[0] < 0.1 < costs[1] == costs[2]


def test_an_image_that_all_pages_show_counts_once() -> None:
    """A letterhead is no work on each page."""
    shared = ("letterhead", "/DCTDecode", 200_000.0)
    first, second = weights_of([40, 40], [[shared, ("a", "/DCTDecode", 1_000.0)], [shared]], [False, False])
    assert (first.images, second.images) == (101_000, 100_000)


@pytest.mark.parametrize("weights", [[], [PageWeight(drawn=0, images=0, coding="", has_text=False)]])
def test_nothing_costs_nothing(weights: list[PageWeight]) -> None:
    """A cost is positive: what a chord is given has to be."""
    assert all(cost > 0 for cost in page_costs(weights, keeps_text=True))


def test_the_preflight_weighs_pages(tmp_path: Path) -> None:
    """A real file: one page is an image, the other empty."""
    image = BytesIO()
    Image.effect_noise((200, 200), 50).save(image, "JPEG")
    with pikepdf.new() as pdf:
        for shows in (True, False):
            page = pdf.add_blank_page(page_size=(200, 200))
            if shows:
                stream = pikepdf.Stream(pdf, image.getvalue())
                stream.Subtype, stream.Filter = pikepdf.Name.Image, pikepdf.Name.DCTDecode
                stream.Width, stream.Height, stream.BitsPerComponent = 200, 200, 8
                stream.ColorSpace = pikepdf.Name.DeviceGray
                page.Resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(Im0=stream))
                page.Contents = pikepdf.Stream(pdf, b"q 200 0 0 200 0 0 cm /Im0 Do Q")
        pdf.save(tmp_path / "in.pdf")
    weights = check(tmp_path / "in.pdf", scratch=tmp_path).weights
    assert [weight.coding for weight in weights] == ["/DCTDecode", ""]
    assert weights[0].images == pytest.approx(len(image.getvalue()), rel=0.01)
    assert weights[1].images == 0
