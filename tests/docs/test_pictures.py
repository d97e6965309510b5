"""The pictures of one weight are drawn, by the optimizers."""

from xml.etree import ElementTree

import pytest
from helpers import require

require("matplotlib")

import pictures  # noqa: E402
from thinc.api import SGD  # noqa: E402

from thinc_swa import EMA, SWA, Lookahead  # noqa: E402


@pytest.fixture(scope="module")
def drawn():
    return pictures.pictures()


def test_each_picture_is_drawn_in_both_schemes(drawn):
    names = {name.rpartition("-")[0] for name in drawn}
    assert names == set(pictures.PICTURES)
    assert set(drawn) == {
        f"{name}-{scheme}.svg" for name in names for scheme in ("light", "dark")
    }


def test_pictures_have_lines_and_labels(drawn):
    labels = {
        "swa": "snapshots",
        "ema": "without settings",
        "lawa": "average of the last 6",
        "lookahead": "slow",
        "schedule_free": "the average",
        "l2sp": "alpha = 0.5",
        "param_groups": "frozen",
        "reconstruction": "wanted: sigma_rel = 0.15",
        "local_sgd": "synchronised weight",
    }
    for name, content in drawn.items():
        root = ElementTree.fromstring(content)
        words = " ".join("".join(element.itertext()) for element in root.iter())
        assert labels[name.rpartition("-")[0]] in words and "step" in words
        lines = [e for e in root.iter() if e.get("id", "").startswith("line2d_")]
        assert len(lines) > 3


def test_a_picture_is_the_same_when_it_is_drawn_again(drawn):
    assert pictures.pictures() == drawn


def test_traces_are_those_of_the_optimizers():
    def sgd():
        return SGD(0.1, grad_clip=0.0, use_averages=False)

    # Without noise the weight shrinks by a tenth in every step.
    raw, averages = pictures.trace(SWA(sgd(), start_step=2, freq=2), 4, noise=0.0)
    assert raw == pytest.approx([3.0, 2.7, 2.43, 2.187, 1.9683])
    assert averages == pytest.approx([3.0, 2.7, 2.43, 2.43, (2.43 + 1.9683) / 2])
    _, averages = pictures.trace(EMA(sgd(), decay=0.5), 2, noise=0.0)
    assert averages == pytest.approx([3.0, 2.7, (2.7 + 2.43) / 2])
    recorder = pictures.Recorder(sgd())
    raw, slow = pictures.trace(Lookahead(recorder, freq=2, pullback=0.5), 2, noise=0.0)
    assert recorder.values == pytest.approx([2.7, 2.43])
    assert raw[2] == pytest.approx((3 + 2.43) / 2) == slow[2]
    (found,) = pictures.trace_workers(1, 2, noise=0.0, freq=2, outer_learn_rate=0.5)
    assert found[0] == pytest.approx([3.0, 3.0 * 0.92, 3.0 * 0.92**2])
    assert found[1][1] == found[0][1]
    # With Nesterov momentum 0.5 the first change counts one and a half times.
    assert found[1][2] == pytest.approx(3.0 - 0.5 * 1.5 * (3.0 - found[0][2]))
