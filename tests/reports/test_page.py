from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.reports.conftest import make_evaluation
from xmas_job.reports.facts import Pool, QuarantineReason
from xmas_job.reports.numbers import build_numbers
from xmas_job.reports.page import count, duration, number, render, share, shortened


class Page(HTMLParser):
    """Tags with their attributes, the visible text, and the ids of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.text += data

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.tags if attribute in attributes]


@pytest.fixture(scope="session")
def numbers(run, pool, stages, trajectories):
    return build_numbers(run, pool, stages, trajectories, make_evaluation("better", num_seeds=3))


@pytest.fixture(scope="session")
def html(numbers):
    return render(numbers)


def test_page_is_the_same_from_numbers_read_back_from_json(numbers, html):
    assert render(json.loads(json.dumps(numbers))) == html


def test_page_bytes_do_not_depend_on_the_process_or_its_matplotlib_settings(numbers, html, tmp_path):
    (tmp_path / "numbers.json").write_text(json.dumps(numbers))
    (tmp_path / "matplotlibrc").write_text("axes.linewidth: 5\nxtick.major.size: 12\nsvg.fonttype: path\n")
    script = (
        "import hashlib, json, pathlib; from xmas_job.reports.page import render;"
        "print(hashlib.sha256(render(json.loads(pathlib.Path('numbers.json').read_text())).encode()).hexdigest())"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": root, "TZ": "Asia/Tokyo"}

    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout

    assert printed.strip() == hashlib.sha256(html.encode()).hexdigest()


def test_page_refers_to_nothing_outside_itself_but_its_json(html):
    page = Page(html)

    links = [*page.values("href"), *page.values("xlink:href"), *page.values("src")]
    assert {link for link in links if not link.startswith("#")} == {"report.json"}
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed"}
    assert not re.search(r"url\((?!#)|@import|https?:", html)


def test_page_links_and_ids_fit_together(html):
    page = Page(html)
    ids = page.values("id")

    assert len(ids) == len(set(ids))
    targets = [link[1:] for link in (*page.values("href"), *page.values("xlink:href")) if link.startswith("#")]
    assert set(targets) <= set(ids)
    assert {"worth", "sources", "clusters", "trajectories", "why", "quarantine", "stages", "repeat"} <= set(targets)


def test_every_chart_has_an_alternative_text(html):
    page = Page(html)

    images = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(images) == 3 + 2 + 3 + 2  # source rows; panels; scores and difference; clusters and instability
    assert all(image.get("aria-label") for image in images)
    assert sum(tag == "svg" for tag, _ in page.tags) == 7


@pytest.mark.parametrize(
    ("verdict", "title"),
    [
        ("better", "▲ Better than random"),
        ("worse", "▼ Worse than random"),
        ("no difference", "= No difference shown against random"),
    ],
)
def test_page_opens_with_the_verdict_whatever_it_is(run, pool, stages, verdict, title):
    numbers = build_numbers(run, pool, stages, evaluation=make_evaluation(verdict))
    html = render(numbers)
    page = Page(html)

    assert page.text.index(title) < page.text.index(numbers["headline"]["sentences"][0]) < page.text.index("Asked")
    assert f'class="verdict {verdict.replace(" ", "-")} charted"' in html


def test_page_without_a_target_says_so(run, pool, stages):
    page = Page(render(build_numbers(run, pool, stages)))

    assert "? Not measured No target was trained and scored in this run" in page.text
    assert "there are no scores" in page.text


def test_page_of_a_method_without_clusters_or_signals_says_so(run, pool, stages):
    plain = dataclasses.replace(pool, cluster=None, instability=None, scored=None)
    page = Page(render(build_numbers(dataclasses.replace(run, method="random"), plain, stages)))

    assert "The method random does not cluster." in page.text
    assert "The method random clusters no trajectories." in page.text
    assert "There is no instability to show" in page.text


def test_page_of_a_pool_without_text_only_examples_and_of_one_cluster(run, stages):
    pool = Pool(
        source=np.zeros(4, int),
        source_names=("only",),
        text_only=np.zeros(4, bool),
        selected=np.array([True, False, False, False]),
        cluster=np.zeros(4, int),
        instability=np.full(4, 0.25),
        scored=np.ones(4, bool),
        rank=np.arange(4),
    )

    page = Page(render(build_numbers(dataclasses.replace(run, quarantine=()), pool, stages)))

    assert "Text-only share none every example has an image" in page.text
    assert "1 of 1" in page.text
    assert "Nothing was quarantined" in page.text


def test_page_of_the_full_pool_shows_no_dropped_median(run, pool, stages):
    page = Page(render(build_numbers(run, dataclasses.replace(pool, selected=np.ones(10, bool)), stages)))

    assert "kept, – dropped" in page.text


@pytest.mark.parametrize(("num_sources", "num_rows", "last"), [(21, 21, "source-20"), (25, 21, "5 other sources")])
def test_page_names_twenty_sources_and_adds_up_the_others(run, stages, num_sources, num_rows, last):
    # Source i has 30 - i examples; the first of each is kept.
    sizes = [30 - i for i in range(num_sources)]
    source = np.repeat(np.arange(num_sources), sizes)
    pool = Pool(
        source=source,
        source_names=tuple(f"source-{i:02}" for i in range(num_sources)),
        text_only=np.zeros(len(source), bool),
        selected=np.append(True, np.diff(source) > 0),
    )

    numbers = build_numbers(run, pool, stages)
    rows = re.findall(
        r'<tr><th scope="row">([^<]*)</th><td class="bars-cell">.*?data-name="pool">(\d+)', render(numbers)
    )

    assert len(rows) == num_rows
    assert rows[-1] == (last, str(sum(sizes[20:])))
    assert len(numbers["sources"]) == num_sources


def test_page_shows_hostile_strings_as_text(run, pool, stages):
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"
    run = dataclasses.replace(
        run,
        run_id=hostile,
        created_at=hostile,
        method=hostile,
        budget_asked=hostile,
        selection_id=hostile,
        channel=hostile,
        quarantine=(QuarantineReason(hostile, 1, hostile),),
        provenance={hostile: hostile},
        software={hostile: hostile},
        commands=((hostile, hostile),),
    )
    evaluation = make_evaluation("better", benchmark=hostile)
    scores = tuple(dataclasses.replace(score, source=score.source and hostile) for score in evaluation.scores)
    pool = dataclasses.replace(pool, source_names=(hostile, hostile + "2", hostile + "3", hostile + "4"))
    stages = tuple(dataclasses.replace(stage, stage=hostile) for stage in stages)

    page = Page(render(build_numbers(run, pool, stages, evaluation=dataclasses.replace(evaluation, scores=scores))))

    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "49" not in page.text
    assert page.text.count("{{ 7 * 7 }}") > 15


def test_page_shows_stages_commands_and_where_the_numbers_are(html):
    page = Page(html)

    assert "extract built 1 min 01 s 0.2500 0.5000 – – bbbbbbbbbbbb…" in page.text
    assert "1 min 03 s 2 of 3 stages built" in page.text
    assert "xmas-job run --recipe demo --budget 40%" in page.text
    assert "file:///store/manifest.json" in page.text


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (count(1234567), "1,234,567"),
        (share(0.1234), "12.3%"),
        (share(0.0001), "< 0.1%"),
        (share(0.0), "0.0%"),
        (number(None), "–"),
        (number(-1.1), "−1.100"),
        (duration(3.21), "3.2 s"),
        (duration(59.97), "1 min 00 s"),
        (duration(3725), "1 h 02 min"),
        (shortened("abc"), "abc"),
        (shortened("0123456789abcdef"), "0123456789ab…"),
    ],
)
def test_figures_read_as_people_write_them(shown, text):
    assert shown == text
