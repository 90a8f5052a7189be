"""The pictures of reports: which there are, and what they show."""

import io

import pytest
from PIL import Image

from hybridgen.reports import charts
from hybridgen.reports.charts import NAMES, chart_pngs
from hybridgen.reports.data import report_data
from hybridgen.reports.view import View
from tests.reports.stores import an_id, cost_outcome, outcome, record, store_of, sweep, usual


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return report_data(usual(tmp_path_factory.mktemp("store") / "out"))


def test_all_pictures(data):
    found = chart_pngs(data)
    assert tuple(found) == NAMES
    for png in found.values():
        picture = Image.open(io.BytesIO(png))
        assert picture.width == 1200
        assert 300 < picture.height < 2000
        colors = picture.convert("RGB").getcolors(maxcolors=2**24)
        assert max(count for count, _ in colors) < 0.97 * picture.width * picture.height  # not empty
        assert any(color == (0, 114, 178) for _, color in colors)  # the blue of Okabe and Ito


def test_the_front_is_a_line_through_the_best(data):
    axes = charts._pareto(View(data)).axes[0]
    (line,) = axes.lines
    assert list(line.get_xdata()) == [16_000, 32_000, 64_000]
    assert list(line.get_ydata()) == pytest.approx([0.465, 0.6, 0.85])
    words = [text.get_text() for text in axes.texts]
    assert words[-1].splitlines() == [
        f"{n}  d_state={s}, d_conv={c}" for n, s, c in ((1, 16, 3), (2, 32, 4), (3, 64, 4))
    ]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "other points", "Pareto front", "attention baseline", "MLP control",
    ]  # fmt: skip


def test_bars_have_intervals_and_chance(data):
    figure = charts._tasks(View(data))
    recall = figure.axes[0]
    assert len(recall.patches) == 7  # of six points one failed; two references
    widths = [bar.get_width() for bar in recall.patches]
    assert widths[:2] == pytest.approx([0.14, 0.61])  # from below: the control, the baseline
    chance = recall.lines[-1]
    assert list(chance.get_xdata()) == [0.125, 0.125]
    assert "none" in [text.get_text() for text in recall.texts]


def test_effects_share_their_axis(data):
    figure = charts._effects(View(data))
    assert len(figure.axes) == 2
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.axes[0].get_title(loc="left").startswith("d_state: ")


def test_a_training_that_ended_sooner_stays_where_it_was():
    curves = [{"points": [[1, 0.0], [2, 1.0]]}, {"points": [[1, 0.5], [2, 0.5], [3, 0.5]]}]
    assert charts._mean_curve(curves) == ([1, 2, 3], [0.25, 0.75, 0.75])


def test_costs_alone_and_nothing_at_all(tmp_path):
    records = [record(n, {"cost": cost_outcome(n)}, {"a": str(n % 2)}) for n in range(1, 5)]
    assert list(chart_pngs(report_data(store_of(tmp_path / "cost", records)))) == ["pareto.png", "effects.png"]
    assert chart_pngs(report_data(store_of(tmp_path / "none", [], [sweep([an_id(1)])]))) == {}


def test_text_is_shown_by_its_held_out_loss(tmp_path):
    details = {"curve": [[10, 3.0], [20, 1.0]], "held_out_curve": [[10, 4.0], [20, 2.0]]}
    lm = outcome({"kind": "lm"}, {"lm.loss": 2.0}, details)
    figure = charts._learning(View(report_data(store_of(tmp_path / "out", [record(1, {"lm": lm})]))))
    (line,) = figure.axes[0].lines
    assert list(line.get_ydata()) == [4.0, 2.0]


def test_names_that_no_font_and_no_formula_spoils(tmp_path):
    names = ["模型", "$x^$", "a\nb", "<b>", "{}%s"]
    records = [record(n, {"cost": cost_outcome(n)}, {"a": name}) for n, name in enumerate(names, start=1)]
    data = report_data(store_of(tmp_path / "out", records))
    assert list(chart_pngs(data)) == ["pareto.png", "effects.png"]
    words = [text.get_text() for text in charts._pareto(View(data)).axes[0].texts]
    assert words[-1].splitlines()[0] == "1  a=模型"
