"""Reviewer 16: which settings matter, from a joint Sobol sweep.

`python -m experiments.studies robustness --analyse`
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.common import Answer, interval, rank_correlation, runs, write_study
from experiments.sweeps import QUICK, sweep
from unseen_diffusion.scores.intervals import holm

SWEEPS = (sweep("robustness", "robustness", tiny=["seed=range(0,8)", QUICK, "tolerances.k=4"]),)

SETTINGS = {
    "references": ("domain", "references"),
    "t": ("mixing", "t"),
    "eta": ("bandwidth", "eta"),
    "steps": ("solver", "steps"),
    "coverage of the bands": ("tolerances", "coverage"),
    "k": ("tolerances", "k"),
}
OUTCOMES = {"kid_h": "KID-H", "copy_rate": "copies", "coverage": "coverage of H"}
PERMUTATIONS, REPEATS, FOLDS = 9999, 20, 4
LEVEL, EXPLAINED, HARDLY = 0.05, 0.5, 0.02


def points(folders: Sequence[Path]) -> pd.DataFrame:
    """A row per run: its settings, its seed and its scores."""
    rows = []
    for results in runs(folders):
        row = {name: results["config"][group][key] for name, (group, key) in SETTINGS.items()}
        own = results["rows"][0]
        rows.append(row | {"seed": results["settings"]["seed"]} | {name: own[name] for name in OUTCOMES})
    return pd.DataFrame(rows)


def permutation_p(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(Spearman's rho, two-sided permutation p-value); a constant side gives (NaN, 1)."""
    rho = rank_correlation(x, y)
    if rho != rho:
        return rho, 1.0
    rng = np.random.default_rng(0)
    ranks = [pd.Series(values).rank().to_numpy() for values in (x, y)]
    a, b = ((one - one.mean()) / one.std() for one in ranks)
    drawn = np.array([float(a @ rng.permutation(b)) / len(a) for _ in range(PERMUTATIONS)])
    return rho, float(1 + (np.abs(drawn) >= abs(rho) - 1e-12).sum()) / (PERMUTATIONS + 1)


def importances(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R² on left-out points (repeats,), and its loss when a setting is permuted there (repeats, settings)."""
    squares = np.concatenate([x, x**2], axis=1)
    model = make_pipeline(StandardScaler(), Ridge(1.0))
    scores, losses = np.zeros(REPEATS), np.zeros((REPEATS, x.shape[1]))
    total = ((y - y.mean()) ** 2).sum()
    for repeat in range(REPEATS):
        rng = np.random.default_rng(repeat)
        error, permuted = 0.0, np.zeros(x.shape[1])
        for train, test in KFold(FOLDS, shuffle=True, random_state=repeat).split(x):
            model.fit(squares[train], y[train])
            error += ((model.predict(squares[test]) - y[test]) ** 2).sum()
            for column in range(x.shape[1]):
                changed = squares[test].copy()
                order = rng.permutation(len(test))
                for part in (column, column + x.shape[1]):
                    changed[:, part] = changed[order, part]
                permuted[column] += ((model.predict(changed) - y[test]) ** 2).sum()
        scores[repeat] = 1 - error / total
        losses[repeat] = (permuted - error) / total
    return scores, losses


def varying(every: pd.DataFrame) -> list[str]:
    """Outcomes that are not the same at every point."""
    return [name for name in OUTCOMES if every[name].nunique() > 1]


def table(every: pd.DataFrame) -> pd.DataFrame:
    """A row per outcome that varies and setting."""
    rows = []
    # Centred, so that a setting and its square are nearly uncorrelated.
    x = np.stack([every[name].to_numpy(float) for name in SETTINGS], axis=1)
    spread = x.std(0)
    x = (x - x.mean(0)) / np.where(spread > 0, spread, 1)
    for outcome in varying(every):
        y = every[outcome].to_numpy(float)
        ranks = [permutation_p(x[:, column], y) for column in range(x.shape[1])]
        corrected = holm([p for _, p in ranks])
        scores, losses = importances(x, y)
        for column, name in enumerate(SETTINGS):
            low, high = np.quantile(losses[:, column], [0.025, 0.975])
            row = {"outcome": outcome, "setting": name, "rho": ranks[column][0], "p": corrected[column]}
            row |= {"importance": losses[:, column].mean(), "importance_low": low, "importance_high": high}
            rows.append(
                row | {"r2": scores.mean(), "verdict": word(corrected[column], row["importance"], scores.mean())}
            )
    return pd.DataFrame(rows)


def word(p: float, importance: float, r2: float) -> str:
    """The verdict by the rule of the study's protocol."""
    if p <= LEVEL:
        return "matters"
    return "hardly matters" if r2 > EXPLAINED and importance < HARDLY else "not resolved"


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results."""
    every = points(folders)
    full = table(every)
    text = pd.DataFrame({"outcome": full["outcome"].replace(OUTCOMES), "setting": full["setting"]})
    text["rank correlation"] = [f"{value:+.2f}" for value in full["rho"]]
    text["p (Holm)"] = [f"{value:.3f}" for value in full["p"]]
    text["importance, loss of R² (range)"] = [
        interval(row.importance, row.importance_low, row.importance_high) for row in full.itertuples()
    ]
    text["R² left out"] = [f"{value:.2f}" for value in full["r2"]]
    text["verdict"] = full["verdict"]
    write_study(out, folders, full, text, draw(every), [answer(every, full)])


def answer(every: pd.DataFrame, full: pd.DataFrame) -> Answer:
    """The answer to reviewer 16: robustness to the hyperparameters."""
    parts, effects = [], []
    for outcome, title in OUTCOMES.items():
        if outcome not in varying(every):
            parts.append(f"{title}: {100 * every[outcome].iloc[0]:.0f}% at every point")
            continue
        rows = full[full["outcome"] == outcome]
        sets = {kind: list(rows[rows["verdict"] == kind]["setting"]) for kind in ("matters", "hardly matters")}
        matter = ", ".join(sets["matters"]) or "no setting resolved"
        hardly = f" (hardly on average: {', '.join(sets['hardly matters'])})" if sets["hardly matters"] else ""
        parts.append(f"{title}: {matter}{hardly}")
        strong = ", ".join(f"{row.setting} {row.rho:+.2f}" for row in rows[rows["verdict"] == "matters"].itertuples())
        effects.append(f"{title} {strong or 'none'}, R² left out {rows['r2'].iloc[0]:.2f}")
    spread = every["kid_h"]
    return Answer(
        "reviewer 16",
        f"What matters, of {len(SETTINGS)} settings over {len(every)} joint points: {'; '.join(parts)}.",
        f"rank correlations: {'; '.join(effects)}; KID-H x1000 {1000 * spread.min():.0f} to {1000 * spread.max():.0f}",
    )


def draw(every: pd.DataFrame) -> Figure:
    """Draws every outcome against every setting, one point per run."""
    outcomes = varying(every)
    figure = Figure(figsize=(2.3 * len(SETTINGS) + 0.8, 2.0 * len(outcomes) + 0.4), layout="constrained")
    axes = figure.subplots(len(outcomes), len(SETTINGS), sharey="row", sharex="col", squeeze=False)
    for row, outcome in zip(axes, outcomes, strict=True):
        title = OUTCOMES[outcome]
        scale = 1000 if outcome == "kid_h" else 100
        for axis, name in zip(row, SETTINGS, strict=True):
            axis.scatter(every[name], scale * every[outcome], s=14, color="C0", alpha=0.8)
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(f"{title} {'x1000' if outcome == 'kid_h' else '(%)'}")
    for axis, name in zip(axes[-1], SETTINGS, strict=True):
        axis.set_xlabel(name)
    return figure
