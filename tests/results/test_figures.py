"""Figures show what there is: every seed, every cell, and nothing invented."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

import results.show.epochs
from results.compute.analysis import analyse
from results.read.collect import PAPER_ORDER, collect
from results.show.epochs import build_grids
from results.show.figures import Drawing, draw_all, draw_fid, draw_samples, draw_sigma, save_figure
from results.show.figures.forest import draw_forest
from tests.results.runs import evaluation, write_campaign, write_picture, write_run

TWO = {"aae": [10.0, 14.0, 12.0], "n_iter": [5.0, 7.0, 6.0]}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def draw(root: Path) -> dict[str, Drawing]:
    collection = collect(root)
    return {drawing.stem: drawing for drawing in draw_all(collection, analyse(collection).frames)}


def test_fid_over_epochs_has_a_line_per_seed_their_mean_and_a_band(tmp_path: Path) -> None:
    write_campaign(tmp_path, TWO)
    (drawing,) = draw_fid(collect(tmp_path))
    axis = drawing.figure.axes[0]
    assert legend(drawing.figure) == ["aae (n = 3)", "n_iter (n = 3)"]
    assert len(axis.lines) == 2 * (3 + 1)
    ends = sorted(float(np.asarray(line.get_ydata())[-1]) for line in axis.lines)
    assert ends == pytest.approx([5, 6, 6, 7, 10, 12, 12, 14])
    assert len(axis.collections) == 2, "bands"


def test_a_cell_stands_in_the_legend_once_however_many_seeds_it_has_in_each_setting(tmp_path: Path) -> None:
    write_campaign(tmp_path, TWO)
    write_campaign(tmp_path, {"aae": [9.0, 8.0]}, prefix="fast-", learning_rate=3e-3)
    (drawing,) = draw_fid(collect(tmp_path))
    assert legend(drawing.figure) == ["aae (n = 2 to 3)", "n_iter (n = 3)"]


def test_files_are_called_after_what_their_settings_differ_in(tmp_path: Path) -> None:
    write_campaign(tmp_path, TWO)
    write_campaign(tmp_path, {"aae": [9.0, 8.0]}, prefix="fast-", learning_rate=3e-3, latent_dim=2)
    stems = set(draw(tmp_path))
    assert {"figure10-digits-32px", "figure10-digits-32px-learning_rate-0.003-latent_dim-2"} <= stems


def test_the_forest_plot_has_a_square_for_each_data_set_and_a_diamond_over_all(tmp_path: Path) -> None:
    for dataset in ("digits", "mnist", "emnist"):
        write_campaign(tmp_path, TWO, dataset=dataset)
    analysis = analyse(collect(tmp_path))
    (drawing,) = draw_forest(analysis.comparisons, analysis.frames["across_datasets"])
    assert drawing.stem == "forest-fid"
    axis = drawing.figure.axes[0]
    markers = [line.get_marker() for line in axis.lines if line.get_marker() not in ("None", "", None)]
    assert (markers.count("s"), markers.count("D")) == (3, 1)
    plt.close(drawing.figure)


def test_fid_is_drawn_in_logarithms_where_it_has_some(tmp_path: Path) -> None:
    """Before training FID is many times what it is after: on a linear axis the rest is one line at the bottom."""
    write_campaign(tmp_path, TWO)
    drawings = draw(tmp_path)
    for stem in ("figure9-fid", "fid-noise-share"):
        axis = drawings[stem].figure.axes[0]
        assert axis.get_yscale() == "log"
        low, high = axis.get_ylim()
        assert 4 < low < 5
        assert 102 < high < 130
    write_run(tmp_path, "perfect", {0: evaluation(9), 10: evaluation(0.0)}, seed=7)
    (drawing,) = draw_fid(collect(tmp_path))
    assert drawing.figure.axes[0].get_yscale() == "linear", "a logarithm would hide the best there is"


class TestSeeds:
    """Parallel coordinates: a panel for each cell, an axis for each score, a line for each seed."""

    def draw(self, root: Path) -> Drawing:
        for seed in range(3):
            for variant, fid in (("aae", 100.0), ("n_iter", 10.0)):
                scores = evaluation(fid / 10**seed, 0.1 * (seed + 1)) | {"eval/recall": 0.2 + 0.1 * seed}
                write_run(root, f"{variant}{seed}", {10: scores}, variant=variant, seed=seed)
        return draw(root)["seeds-digits-32px"]

    def test_every_seed_is_a_line_in_its_own_cells_panel_and_grey_in_the_others(self, tmp_path: Path) -> None:
        drawing = self.draw(tmp_path)
        assert [axis.get_title() for axis in drawing.figure.axes] == ["aae (n = 3)", "n_iter (n = 3)"]
        for axis in drawing.figure.axes:
            own = [line for line in axis.lines if line.get_color() not in ("0.85", "0.7")]
            grey = [line for line in axis.lines if line.get_color() == "0.85"]
            assert (len(own), len(grey)) == (3, 3)

    def test_the_best_is_at_the_right_whichever_direction_that_is(self, tmp_path: Path) -> None:
        drawing = self.draw(tmp_path)
        axis = drawing.figure.axes[1]
        assert [label.get_text() for label in axis.get_yticklabels()] == ["FID", "recall", "noise share"]
        places = np.array([line.get_xdata() for line in axis.lines if line.get_color() not in ("0.85", "0.7")], float)
        assert places[:, 0] == pytest.approx([1 / 3, 2 / 3, 1]), "FID 10, 1, 0.1 of 100 to 0.1"
        assert places[:, 1] == pytest.approx([0, 0.5, 1])
        assert "FID 100.00 to 0.10, recall 0.200 to 0.400, noise share 0.010 to 0.090." in drawing.caption

    def test_a_single_seed_has_none(self, tmp_path: Path) -> None:
        write_campaign(tmp_path, {"aae": [3.0], "n_iter": [4.0]})
        assert not [stem for stem in draw(tmp_path) if stem.startswith("seeds")]


class TestGridsOverEpochs:
    """What the report's sliders show."""

    def test_have_every_cell_at_every_epoch(self, tmp_path: Path) -> None:
        write_campaign(tmp_path, TWO, pictures=True)
        (grids,), more = build_grids(collect(tmp_path))
        assert (grids.epochs, more) == ([0, 5, 10], "")
        assert [cell for cell, _ in grids.frames] == ["aae", "n_iter"]
        assert all(str(frame).startswith("data:image/webp") for _, frames in grids.frames for frame in frames)
        first, last = grids.frames[0][1][0], grids.frames[0][1][2]
        assert first != last

    def test_say_where_a_picture_is_missing_or_damaged(self, tmp_path: Path) -> None:
        write_campaign(tmp_path, TWO, pictures=True)
        samples = tmp_path / "aae-digits-32-seed0" / "samples"
        (samples / "epoch-000000.png").write_bytes(b"not a picture")
        (samples / "epoch-000005.png").unlink()
        ((grids,), _) = build_grids(collect(tmp_path))
        assert [frame is None for frame in grids.frames[0][1]] == [True, True, False]

    def test_are_thinned_evenly_where_there_are_too_many(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_campaign(tmp_path, TWO, pictures=True)
        monkeypatch.setattr(results.show.epochs, "MOST_PIXELS", 4 * 256 * 96)
        ((grids,), _) = build_grids(collect(tmp_path))
        assert grids.epochs == [0, 10], "the first and the last stay"
        monkeypatch.setattr(results.show.epochs, "MOST_PIXELS", 3 * 256 * 96)
        ((grids,), more) = build_grids(collect(tmp_path))
        assert [cell for cell, _ in grids.frames] == ["aae"]
        assert more == " Left out, so that this file stays small: 1 cells."


def test_one_seed_has_no_band(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": [10.0]})
    (drawing,) = draw_fid(collect(tmp_path))
    (band,) = drawing.figure.axes[0].collections
    assert all(path.vertices.size == 0 for path in band.get_paths())  # pyright: ignore[reportAttributeAccessIssue]


def test_options_are_told_apart(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": [10.0, 11.0]})
    write_campaign(tmp_path, {"aae": [9.0]}, prefix="exp-", options={"sigma": "exp"})
    (drawing,) = draw_sigma(collect(tmp_path))
    assert legend(drawing.figure) == ["aae (sigma=exp) (n = 1)", "aae (sigma=linear) (n = 2)"]


def test_cells_differ_in_marker_and_line_not_only_in_colour(tmp_path: Path) -> None:
    write_campaign(tmp_path, {variant: [3.0, 4.0] for variant in PAPER_ORDER[:5]})
    (drawing,) = draw_fid(collect(tmp_path))
    means = [line for line in drawing.figure.axes[0].lines if not str(line.get_label()).startswith("_")]
    assert len({str(line.get_marker()) for line in means}) == 5


def test_one_setting_shows_the_samples_of_every_seed(tmp_path: Path) -> None:
    write_campaign(tmp_path, TWO, pictures=True)
    (drawing,) = draw_samples(collect(tmp_path))
    axes = drawing.figure.axes
    assert [axis.get_title() for axis in axes[:3]] == ["seed 0", "seed 1", "seed 2"]
    assert [axis.get_ylabel() for axis in axes[::3]] == ["aae", "n_iter"]
    shown = np.asarray(axes[0].images[0].get_array())
    saved = np.asarray(Image.open(tmp_path / "aae-digits-32-seed0" / "samples" / "epoch-000010.png"))
    assert (shown == saved[:96]).all(), "the first rows of the run's own picture"


def test_several_data_sets_stand_across_and_a_gap_is_said(tmp_path: Path) -> None:
    write_campaign(tmp_path, TWO, pictures=True, dataset="mnist")
    write_campaign(tmp_path, {"aae": [3.0]}, pictures=True, dataset="emnist")
    (drawing,) = draw_samples(collect(tmp_path))
    assert len(drawing.figure.axes) == 4
    texts = [text.get_text() for axis in drawing.figure.axes for text in axis.texts]
    assert texts == ["no finished run"]


def test_the_papers_pairs_are_drawn_where_both_were_trained(tmp_path: Path) -> None:
    for variant in ("aae", "vae_gan"):
        folder = write_run(tmp_path, variant, {5: evaluation(9), 10: evaluation(5)}, variant=variant)
        write_picture(folder, 10)
    write_campaign(tmp_path, TWO, pictures=True, image_size=64, dataset="ffhq", batch_size=256)
    drawings = draw(tmp_path)
    assert drawings["figure4-digits-32px"].caption == "Prior samples at epoch 10."
    assert "n_iter" in drawings["figure8-ffhq-64px"].title


def test_a_damaged_picture_stops_nothing(tmp_path: Path) -> None:
    write_campaign(tmp_path, TWO, pictures=True)
    (tmp_path / "aae-digits-32-seed1" / "samples" / "epoch-000010.png").write_bytes(b"not a picture")
    (drawing,) = draw_samples(collect(tmp_path))
    assert any("damaged picture" in text.get_text() for axis in drawing.figure.axes for text in axis.texts)


def test_the_distributions_pool_all_seeds_and_draw_each_ones_median(tmp_path: Path) -> None:
    write_campaign(tmp_path, TWO)
    figure = draw(tmp_path)["figure10-digits-32px"].figure
    assert [axis.get_title() for axis in figure.axes[:2]] == ["aae", "n_iter"]
    sigma = figure.axes[2]
    medians = [line for line in sigma.lines if len(np.asarray(line.get_xdata())) == 3]
    assert len(medians) == 3
    assert np.asarray(medians[0].get_ydata()) == pytest.approx([0.6, 0.35, 0.15], abs=0.06)


def test_an_option_that_takes_three_numbers_becomes_a_curve(tmp_path: Path) -> None:
    for weight, fid in ((0.01, 9.0), (0.1, 5.0), (1.0, 7.0)):
        options = {"weight": weight, "sigma": "exp"}
        write_campaign(tmp_path, {"kld_loss": [fid, fid + 1]}, prefix=f"{weight}", options=options)
    drawings = draw(tmp_path)
    axis = drawings["option-kld_loss-weight-digits-32px"].figure.axes[0]
    assert axis.get_xscale() == "log"
    means = axis.containers[0].lines[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert np.asarray(means.get_ydata()).tolist() == [9.5, 5.5, 7.5]


def test_learning_curves_have_every_phase_of_every_epoch(tmp_path: Path) -> None:
    write_campaign(tmp_path, TWO)
    (axis,) = draw(tmp_path)["losses-digits-32px"].figure.axes
    assert axis.get_title() == "reconstruction"
    assert len(np.asarray(axis.lines[0].get_xdata())) == 10


def test_a_variant_without_posterior_has_its_other_figures(tmp_path: Path) -> None:
    scores = {key: value for key, value in evaluation(5).items() if key.startswith("eval/")}
    write_run(tmp_path, "gan", {10: scores | {"posterior/collapse": "no posterior"}}, variant="gan", options={})
    assert set(draw(tmp_path)) == {"figure9-fid", "losses-digits-32px"}


def test_the_same_figure_is_the_same_file(tmp_path: Path) -> None:
    write_campaign(tmp_path, TWO)
    for name in ("a", "b"):
        (drawing,) = draw_fid(collect(tmp_path))
        save_figure(drawing.figure, tmp_path / f"{name}.svg")
        plt.close(drawing.figure)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
