"""What a study found, in pictures: SVG that looks the same on white and dark pages, the same bytes for the same scores.

Colours are those of Okabe and Ito, told apart with any kind of colour vision; position, order and shape say the same
again. The background is opaque white, text stays text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.files import whole_file
from engine.model_card import REGIONS, TUMOUR_CORE, WHOLE_TUMOUR
from trainer.comparison import PatientScore, sequences_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = {WHOLE_TUMOUR: "Whole tumour", TUMOUR_CORE: "Tumour core"}
# Okabe and Ito without yellow, which is hardly seen on white, and black, which is for text and medians.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#7F7F7F")
_PAIR = (_COLOURS[3], _COLOURS[0], _COLOURS[2])
_BETTER, _WORSE = _COLOURS[0], _COLOURS[3]
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_TEXT, _CAPTION, _LINES = "#1A1A1A", "#4D4D4D", "#D9D9D9"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": "#808080",
    "axes.labelcolor": _TEXT,
    "axes.titlesize": 11,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _LINES,
    "grid.linewidth": 0.8,
    "text.color": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "legend.frameon": False,
    # The same bytes for the same scores.
    "svg.hashsalt": "gliascope",
    "svg.fonttype": "none",
}
_BEYOND = {"left": "top", "right": "bottom"}
_SMALLEST_ML = 0.01
_SMOOTHING = 1.5  # factor in volume at which a patient counts 0.6 as much


def boxes(path: Path, scores: Sequence[PatientScore], title: str) -> None:
    """Box plots of Dice by recipe, a panel a region, every patient a dot.

    The box holds the middle half of the patients, its line is the median, the diamond the mean, and whiskers end at the
    last patient within one and a half box heights.

    Args:
        path: The SVG file.
        scores: Of one cohort and one set of sequences; recipes are drawn in the order in which they come.
        title: Above the panels.
    """
    recipes = list(dict.fromkeys(score.recipe for score in scores))
    with _figure(path, title, 2.6 + 1.25 * len(recipes) * len(REGIONS), 4.6) as figure:
        panels = figure.subplots(1, len(REGIONS), sharey=True)
        for panel, region in zip(panels, REGIONS, strict=True):
            _dice_axis(panel)
            panel.set_title(_TITLES[region])
            for place, recipe in enumerate(recipes):
                dice = _points(scores, recipe, region)
                if not dice.size:
                    continue
                colour = _COLOURS[place % len(_COLOURS)]
                _box(panel, place, dice, colour)
            panel.set_xticks(range(len(recipes)), [_broken(recipe) for recipe in recipes])
            panel.set_xlim(-0.6, len(recipes) - 0.4)
            panel.tick_params(axis="x", length=0)
        panels[0].set_ylabel("Dice, points")
        words = "Dots: patients. Box: middle half of them. Line and number: median. Diamond: mean."
        figure.supxlabel(words, fontsize=9, color=_CAPTION)


def gains(path: Path, differences: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Each patient's difference between two recipes, sorted, a panel a region; a bar that is cut off says its value.

    Args:
        path: The SVG file.
        differences: Difference in Dice points by region and patient.
        title: Above the panels; says which recipe is subtracted from which.
    """
    sizes = np.abs([value for of_region in differences.values() for value in of_region.values()] or [0.0])
    # One patient whose empty core was got right or wrong differs by 100, and would flatten all the others.
    limit = float(max(5.0, min(sizes.max() * 1.05, 1.6 * np.percentile(sizes, 95))))
    with _figure(path, title, 9.0, 4.2) as figure:
        panels = figure.subplots(1, len(REGIONS), sharey=True)
        for panel, region in zip(panels, REGIONS, strict=True):
            panel.set_title(_TITLES[region])
            panel.grid(axis="y")
            values = np.sort(np.array(list(differences.get(region, {}).values()), dtype=float))
            if not values.size:
                continue
            colours = np.where(values > 0, _BETTER, _WORSE)
            shown = np.clip(values, -limit, limit)
            panel.bar(range(len(values)), shown, width=0.8 if len(values) < 80 else 1.0, color=colours, linewidth=0)
            for end, at, side in ((values < -limit, 0, "left"), (values > limit, len(values) - 1, "right")):
                if end.any():
                    cut = ", ".join(f"{value:+.0f}" for value in values[end])
                    panel.text(at, np.sign(values[at]) * limit * 1.02, cut, ha=side, va=_BEYOND[side], fontsize=9)
            panel.axhline(0, color=_TEXT, linewidth=1)
            mean = float(values.mean())
            panel.axhline(mean, color=_TEXT, linewidth=1.2, linestyle=(0, (5, 3)))
            better, worse = int((values > 0).sum()), int((values < 0).sum())
            words = f"mean {mean:+.1f} (dashed), median {np.median(values):+.1f}\n{better} better, {worse} worse"
            panel.text(0.02, 0.98, words, transform=panel.transAxes, va="top")
            panel.set_xticks([])
            panel.set_xlabel(f"{len(values)} patients, from worst to best difference")
            panel.set_xlim(-1, len(values))
        panels[0].set_ylim(-limit * 1.12, limit * 1.5)  # room for the words above the bars
        panels[0].set_ylabel("difference in Dice, points")


def volumes(path: Path, scores: Sequence[PatientScore], title: str) -> None:
    """Dice against the lesion's true volume, a panel a region, with each recipe's smoothed mean.

    Args:
        path: The SVG file.
        scores: Of one cohort and one set of sequences. Patients without the region are left out: they have no volume.
        title: Above the panels.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    recipes = list(dict.fromkeys(score.recipe for score in scores))
    with _figure(path, title, 9.0, 4.8) as figure:
        panels = figure.subplots(1, len(REGIONS), sharey=True)
        for panel, region in zip(panels, REGIONS, strict=True):
            _dice_axis(panel)
            panel.grid(axis="x")
            panel.set_title(_TITLES[region])
            panel.set_xscale("log")
            for place, recipe in enumerate(recipes):
                own = [score for score in scores if (score.recipe, score.region) == (recipe, region)]
                volume = np.array([score.truth_ml for score in own])
                dice = 100 * np.array([score.dice for score in own])
                there = volume > 0
                if not there.any():
                    continue
                volume, dice = np.maximum(volume[there], _SMALLEST_ML), dice[there]
                style = {"color": _PAIR[place % len(_PAIR)], "marker": _MARKERS[place % len(_MARKERS)]}
                panel.scatter(volume, dice, s=26, alpha=0.6, linewidths=0, label=recipe, **style)
                panel.plot(*_smooth(volume, dice), color=style["color"], linewidth=2.2)
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.set_xlabel("true volume, ml")
        panels[0].set_ylabel("Dice, points")
        handles, labels = panels[0].get_legend_handles_labels()
        words = "Dots: patients. Lines: mean of the patients with about that volume."
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=len(labels), handletextpad=0.2, title=words
        )
        legend.get_title().set(color=_CAPTION, fontsize=9)


def subsets(path: Path, scores: Sequence[PatientScore], title: str) -> None:
    """Mean Dice by set of sequences, a line a set, a mark a recipe, a panel a region.

    Args:
        path: The SVG file.
        scores: Of one cohort; sets and recipes are drawn in the order in which they come.
        title: Above the panels.
    """
    sets = list(dict.fromkeys(score.sequences for score in scores))
    recipes = list(dict.fromkeys(score.recipe for score in scores))
    with _figure(path, title, 9.0, 1.9 + 0.27 * len(sets)) as figure:
        panels = figure.subplots(1, len(REGIONS), sharey=True, sharex=True)
        for panel, region in zip(panels, REGIONS, strict=True):
            panel.set_title(_TITLES[region])
            panel.grid(axis="both")
            for place, recipe in enumerate(recipes):
                dice = [
                    _points([score for score in scores if score.sequences == used], recipe, region) for used in sets
                ]
                there = [line for line, own in enumerate(dice) if own.size]
                panel.scatter(
                    [float(dice[line].mean()) for line in there],
                    there,
                    s=46,
                    color=_COLOURS[place % len(_COLOURS)],
                    marker=_MARKERS[place % len(_MARKERS)],
                    linewidths=0,
                    alpha=0.85,
                    label=recipe,
                )
            panel.set_xlabel("mean Dice, points")
        panels[0].set_yticks(range(len(sets)), [sequences_in_words(used) for used in sets])
        panels[0].set_ylim(len(sets) - 0.5, -0.5)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), handletextpad=0.2)


def _box(panel: Axes, place: int, dice: np.ndarray, colour: str) -> None:
    panel.boxplot(
        [dice],
        positions=[place],
        widths=0.62,
        showfliers=False,
        showmeans=True,
        patch_artist=True,
        boxprops={"facecolor": colour + "38", "edgecolor": colour, "linewidth": 1.4},
        whiskerprops={"color": colour, "linewidth": 1.4},
        capprops={"color": colour, "linewidth": 1.4},
        medianprops={"color": _TEXT, "linewidth": 2},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": _TEXT, "markersize": 6},
        manage_ticks=False,
    )
    # Spread by rank, the same every time and with neighbours apart: the golden ratio's multiples do both.
    ranks = np.argsort(np.argsort(dice, kind="stable"), kind="stable")
    spread = (np.modf((ranks + 1) * 0.6180339887)[0] - 0.5) * 0.44
    panel.scatter(place + spread, dice, s=11, color=colour, alpha=0.75, linewidths=0, zorder=2.5)
    panel.annotate(
        f"{np.median(dice):.1f}",
        (place, -3),
        ha="center",
        va="top",
        fontsize=9,
        fontweight="bold",
        annotation_clip=False,
    )


def _smooth(volume: np.ndarray, dice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean Dice around each volume: patients count the less the further theirs is, on the logarithmic axis."""
    logs = np.log(volume)
    at = np.linspace(logs.min(), logs.max(), 60)
    weights = np.exp(-0.5 * ((at[:, None] - logs) / np.log(_SMOOTHING)) ** 2)
    return np.exp(at), weights @ dice / weights.sum(axis=1)


def _dice_axis(panel: Axes) -> None:
    panel.set_ylim(-9, 101)
    panel.set_yticks(range(0, 101, 20))
    panel.grid(axis="y")


def _points(scores: Sequence[PatientScore], recipe: str, region: str) -> np.ndarray:
    return 100 * np.array([s.dice for s in scores if (s.recipe, s.region) == (recipe, region)])


def _broken(recipe: str) -> str:
    """A recipe's name in lines short enough to stand beside its neighbour's."""
    lines = [""]
    for word in recipe.replace("_", "-").split("-"):
        joined = f"{lines[-1]}-{word}" if lines[-1] else word
        if lines[-1] and len(joined) > 12:
            lines.append(word)
        else:
            lines[-1] = joined
    return "\n".join(lines)


@contextmanager
def _figure(path: Path, title: str, width: float, height: float) -> Iterator[Figure]:
    """A figure of ``width`` x ``height`` inches, written to ``path`` when it is drawn."""
    import matplotlib  # half a second that only a report is worth
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        figure.suptitle(title, fontsize=12)
        yield figure
        with whole_file(path) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
