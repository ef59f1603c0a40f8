"""The page of a results folder: its numbers, words and links, and what it must not have."""

from __future__ import annotations

import base64
import hashlib
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from bench.core.threat import Access
from bench.figures import curves
from bench.figures.cells import Wanted
from bench.results.cell import digest_of
from bench.results.files import read_json, write_json
from bench.results.render import cells_as_text, shown, text_of
from bench.results.store import Store
from bench.results.table import collect, with_worst_case
from bench.webpage.charts import cost, security_curves
from bench.webpage.chosen import Asked, choose
from bench.webpage.defenses import defenses
from bench.webpage.pictures import MOST, Picture, Strip, Strips, _source
from bench.webpage.write import fragment, report, table_page

from ..command import Bench, is_one_clear_message
from .made import N, Page, cell, keep, ladder

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def page_of(store: Store, **asked: Any) -> Page:
    return Page(report(choose(store, Asked(**asked))))


def test_the_numbers_are_those_of_the_table(store: Store) -> None:
    ladder(store)
    keep(store, cell("other", access=Access.BPDA), [True] * 4 + [False] * 4)
    page = shown(frame := with_worst_case(collect(store), store))
    rows = [dict(zip(page, row, strict=True)) for row in cells_as_text(page)]
    expected = sorted(
        (row["defense"], row["attack"], row["robust"], row["interval"], row["clean"],
         row["passes"]) for row in rows
    )  # fmt: skip
    found = []
    for row in page_of(store).table:
        robust, interval = row["robust"].split()
        name, attack = row["defense"].split()[0], row["attack"]
        attack = "worst case" if attack.startswith("worst case") else attack.split()[0]
        found.append((name, attack, robust, interval, row["clean"], row["passes"]))
    assert sorted(found) == expected
    assert len(frame) == 5


def test_a_worst_case_stands_before_what_it_joins(store: Store) -> None:
    ladder(store)
    ladder(store, "other")
    attacks = [row["attack"].split()[0] for row in page_of(store).table]
    assert attacks == ["worst", "apgd", "noise"] * 2


def test_every_link_leads_somewhere_and_every_cell_has_its_origin(store: Store) -> None:
    keys = ladder(store)
    page = page_of(store)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = [href for href in page.values("href") if href.startswith("#")]
    assert {link[1:] for link in links} <= set(ids)
    assert {f"c-{key}" for key in keys} <= set(ids)
    text = report(choose(store, Asked()))
    origin = text.partition(f'id="c-{keys[0]}"')[2].partition("</dl>")[0]
    digests = read_json(store.cell(keys[0]) / "provenance.json")["sha256"]
    for said in ("bench run --defense made", keys[0], "a" * 64, "b" * 64, "d" * 64, "c" * 40,
                 digests["outcomes.parquet"], digests["cell.json"]):  # fmt: skip
        assert f"<code>{said}</code>" in origin


def test_nothing_is_fetched_and_only_our_script_runs(store: Store) -> None:
    ladder(store)
    text = report(choose(store, Asked()))
    page = Page(text)
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:|//)""", text)
    assert page.all("link") == []
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize("where", ["defense", "parameter", "flag", "command", "reason"])
def test_what_looks_like_a_script_is_text(store: Store, where: str) -> None:
    keep(store, cell(), [True] * N)
    if where == "reason":
        made = cell("failing")
        store.fail(made.canonical(), made.key(), SCRIPT, "run")
    else:
        about = {"flag": {"flags": [SCRIPT]}, "command": {"command": SCRIPT}}
        made = cell(
            SCRIPT if where == "defense" else "strange",
            params={"word": SCRIPT} if where == "parameter" else None,
        )
        keep(store, made, [True] * N, **about.get(where, {}))
    text = report(choose(store, Asked()))
    assert len(Page(text).all("script")) == 1
    assert SCRIPT not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_what_is_void_unfinished_or_damaged_has_no_number(store: Store) -> None:
    keep(store, cell("good"), [True] * N)
    keep(store, cell("void"), [True] * N, legal=False)
    made = cell("unfinished")
    write_json(store.cell(made.key()) / "cell.json", made.canonical())
    damaged = keep(store, cell("damaged"), [True] * N)
    with store.outcomes(damaged).open("ab") as file:
        file.write(b"!")
    failing = cell("failing")
    store.fail(failing.canonical(), failing.key(), "no memory", "run")
    rows = {row["defense"].split()[0]: row for row in page_of(store).table[::-1]}
    assert rows["good"]["robust"].startswith("100.0")
    for name in ("void", "unfinished", "damaged"):
        assert (rows[name]["robust"], rows[name]["clean"]) == (name, "")
        assert name in rows[name]["state"]
    assert rows["failing"]["robust"] == "failed"
    assert "no memory" in rows["failing"]["state"]
    text = report(choose(store, Asked()))
    assert f"Damaged, without a number: {damaged}." in text
    assert "nothing was measured on all 8 images" in text


def test_a_cell_of_another_version_among_good_ones(store: Store) -> None:
    keep(store, cell("good"), [True] * N)
    old = keep(store, cell("old"), [True] * 2 + [False] * 6)
    content = read_json(store.cell(old) / "cell.json")
    del content["shard"]
    kept = {k: v for k, v in content.items() if k not in ("set", "settings")}
    folder = store.cell(digest_of(kept))
    store.cell(old).rename(folder)
    write_json(folder / "cell.json", content)
    about = read_json(folder / "provenance.json")
    del about["sha256"]
    write_json(folder / "provenance.json", about)
    page = page_of(store)
    rows = {row["defense"]: row for row in page.table}
    # Its number is that of the table; of its origin nothing is known that a page could show.
    row = collect(store).set_index("defense").loc["old"]
    assert rows["old"]["robust"].startswith(text_of(row["robust"]))
    assert f"c-{folder.name}" not in page.values("id")


def test_two_settings_are_told_apart_and_can_be_chosen(store: Store) -> None:
    for sigma in (0.1, 0.2):
        ladder(store, params={"sigma": sigma, "training": {"seed": 0}})
    page = page_of(store)
    assert {row["defense"] for row in page.table} == {
        f"made sigma={sigma} training.seed=0" for sigma in (0.1, 0.2)
    }
    chosen = page_of(store, settings={"defense": {"sigma": 0.2, "training": {"seed": 0}}})
    assert {row["defense"] for row in chosen.table} == {"made sigma=0.2 training.seed=0"}


def test_curves_have_the_points_of_the_figure(store: Store) -> None:
    for eps, left in ((1, 6), (2, 3)):
        made = cell(eps=Fraction(eps, 10))
        keep(store, made, [True] * left + [False] * (N - left))
    keep(store, cell("once"), [True] * N)
    frame = curves.collect(store, Wanted("digits", defenses=("made",)))
    (chart,) = security_curves(choose(store, Asked()))
    expected = [
        (eps, text_of(robust), f"{low:.1f}-{high:.1f}", key)
        for eps, robust, low, high, key in frame[
            ["eps", "robust", "robust_low", "robust_high", "key"]
        ].itertuples(index=False)
    ]
    assert [row[1:5] for row in chart.rows] == expected
    (curve,) = chart.curves
    assert [mark.y for mark in curve.marks] == sorted(mark.y for mark in curve.marks)
    assert [mark.x for mark in curve.marks] == sorted(mark.x for mark in curve.marks)
    assert [tick.text for tick in chart.x_ticks] == ["0", "0.05", "0.1", "0.15", "0.2"]


def test_the_cost_adds_up_over_the_attacks_of_a_ladder(store: Store) -> None:
    keys = ladder(store)
    chosen = choose(store, Asked())
    (chart,) = cost(chosen, defenses(chosen))
    passes = dict(zip(chosen.cells["key"], chosen.cells["passes"], strict=True))
    worst = chosen.rows.iloc[-1]
    assert [row[2:] for row in chart.rows] == [
        (str(passes[keys[0]]), "75.0", keys[0]),
        (str(worst["passes"]), text_of(worst["robust"]), keys[1]),
    ]


def test_a_page_with_fifty_cells_and_fifty_strips_can_be_sent_by_mail(store: Store) -> None:
    import numpy as np

    for number in range(25):
        ladder(store, params={"sigma": number / 100})
    draw = np.random.default_rng(0).random  # nothing compresses worse than noise
    sources = [_source(draw((side, side, 3))) for side in (32, 48, 49, 64, 112, 113, 224)]
    picture = Picture(max(sources, key=len), "attacked", "class 1", "Image 0")
    strip = Strip("made", "Image 0", store.cells()[0].name, (picture,) * 6)
    text = report(choose(store, Asked()), Strips((strip,) * MOST, ()))
    assert len(store.cells()) == MOST == 50
    assert text.count("<img") == 6 * MOST
    assert len(text.encode()) < 5_000_000


def test_small_pictures_are_exact() -> None:
    import io

    import numpy as np
    from PIL import Image

    pixels = np.arange(64).reshape(8, 8, 1) / 63
    kind, _, packed = _source(pixels).partition("base64,")
    assert kind == "data:image/png;"
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(packed))))
    assert (read == (255 * pixels[..., 0]).round()).all()


def test_the_page_can_be_read_aloud(store: Store) -> None:
    ladder(store)
    text = report(choose(store, Asked()))
    page = Page(text)
    assert page.all("html") == [{"lang": "en"}]
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(page.all(landmark)) == 1, landmark
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(image["alt"] for image in page.all("img"))
    labelled = page.all("select") + [one for one in page.all("input") if "id" not in one]
    assert text.count("<label") == len(labelled) + 3  # and the three colours
    assert all("aria-label" in one for one in page.all("svg") if one.get("role") == "img")
    assert all(one.get("tabindex") == "0" for one in page.all("div") if "role" in one)


def _luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_both_modes_have_contrast() -> None:
    style = Path("bench/webpage/templates/page.css")
    text = (Path(__file__).resolve().parents[2] / style).read_text()
    modes = [dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in re.findall(
        r"color-scheme: \w+;([^}]*)}", text
    )]  # fmt: skip
    assert len(modes) == 3
    assert modes[1] == modes[2]  # chosen, or the system's
    for mode in modes:
        for front in ("text", "soft", "link", "bad", *(f"c{k}" for k in range(6))):
            for back in ("page", "card", "worst"):
                pair = sorted(_luminance(mode[name]) for name in (front, back))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (front, back)


def test_a_table_by_itself_and_in_a_notebook(store: Store, bench: Bench) -> None:
    keep(store, cell(params={"sigma": 0.1}), [True] * 6 + [False] * 2)
    said = bench("table", "--format=html", "--worst-case", "--rule=single")
    assert said.code == 0, said
    rows = Page(said.out).table
    assert [row["attack"].split()[0] for row in rows] == ["worst", "apgd"]
    assert "one draw" in said.out
    frame = collect(store)
    part = fragment(frame, {})
    assert part.startswith("<table>")
    assert "<script" not in part
    low, high = frame.iloc[0][["robust_low", "robust_high"]]
    assert Page(part).table[0]["robust"] == f"75.0 {low:.1f}-{high:.1f}"
    assert "<h1>Results</h1>" in table_page(frame, {})


def test_strips_that_were_drawn_before_are_shown(store: Store) -> None:
    keep(store, made := cell(), [True] * N)
    store.figures.mkdir()
    for name, one in (("strips-made", made), ("strips-other", cell("other"))):
        (store.figures / f"{name}.png").write_bytes(b"\x89PNG")
        (store.figures / f"{name}.csv").write_text(
            "index,label,steps,predicted\n3,7,-1,7\n3,7,0,2\n3,7,10,7\n"
        )
        about = {"cells": [one.canonical()], "checkpoints": {"net": "e" * 64}, "data": "d",
                 "command": f"bench figure {name}", "commit": "c"}  # fmt: skip
        write_json(store.figures / f"{name}.json", about)
    (store.figures / "strips-broken.json").write_text("{")
    text = report(choose(store, Asked()))
    (image,) = Page(text).all("img")
    assert "Image 3, class 7: seen clean as 7, attacked as 2, purified as 7." in image["alt"]
    assert "<code>bench figure strips-made</code>" in text
    assert f"<code>{'e' * 64}</code>" in text


ASK = ("report", "--html")


def test_the_command_writes_one_file(store: Store, bench: Bench, tmp_path: Path) -> None:
    ladder(store)
    ladder(store, "other")
    assert bench(*ASK).out == "wrote report.html\n"
    assert {path.name for path in tmp_path.iterdir()} == {"results", "report.html"}
    first = Path("report.html").read_bytes()
    assert "How robust are 2 defenses?" in first.decode()
    said = bench("report", "made", "--html", "-o", "one.html", "--eps=0.1", "-n", str(N))
    assert said.code == 0, said
    one = Path("one.html").read_text()
    assert "How robust is made?" in one
    assert "other" not in {row["defense"] for row in Page(one).table}
    assert bench(*ASK).code == 0
    assert Path("report.html").read_bytes() == first


def test_what_a_page_cannot_be_made_of(store: Store, bench: Bench, tmp_path: Path) -> None:
    is_one_clear_message(bench(*ASK), "no results in results", "bench run", code=2)
    keys = ladder(store)
    cases: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        ((*ASK, "mode"), ("no defense with results is called 'mode'", "Did you mean 'made'?")),
        ((*ASK, "--eps=0.3"), ("no cell of what was asked (eps 0.3)", "bench table --all")),
        ((*ASK, "made", "--defense=other"), ("give made or other",)),
        ((*ASK, "--set=attack.steps=3"), ("defense.NAME=VALUE",)),
        ((*ASK, "--set=defense.sigma=3"), ("(defense.sigma=3)", "bench run")),
        ((*ASK, "-o", "nowhere/page.html"), ("there is no folder nowhere", "mkdir -p")),
        ((*ASK, "--image=99"), ("no cell has an image 99", "choose from")),
        (("report", "made", "--image=1"), ("--html",)),
        (("report",), ("name the defense", "bench report --html")),
    ]
    for words, parts in cases:
        is_one_clear_message(bench(*words), *parts, code=2)
    said = bench(*ASK, "--image=1")
    is_one_clear_message(said, "are not stored here", "Copy that folder", code=1)
    assert {path.name for path in tmp_path.iterdir()} == {"results"}
    # What is damaged is named, and the rest is a page all the same.
    with store.outcomes(keys[1]).open("ab") as file:
        file.write(b"!")
    is_one_clear_message(bench(*ASK), "damaged and not used", keys[1], "bench verify", code=1)
    assert "damaged" in Path("report.html").read_text()
    store.outcomes(keys[0]).write_bytes(b"!")
    said = bench(*ASK, "made")
    is_one_clear_message(said, "all cells in results are damaged", "bench verify", code=2)


def test_the_markdown_report_chooses_by_set(store: Store, bench: Bench) -> None:
    for sigma in (0.1, 0.2):
        ladder(store, params={"sigma": sigma})
    ask = ("report", "made", "--eps=0.1")
    is_one_clear_message(bench(*ask), "--set defense.sigma=0.1 or 0.2", code=2)
    said = bench(*ask, "--set=defense.sigma=0.2")
    assert said.code == 0, said
    assert "sigma 0.2" in said.out
    is_one_clear_message(bench(*ask, "--set=defense.sigma=9"), "with defense.sigma=9", code=2)
