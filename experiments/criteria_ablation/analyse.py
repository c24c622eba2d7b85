"""The geometric criteria alone, in pairs and together against accepting every draw (M3, open question 3, reviewer 5).

`python -m experiments.studies criteria_ablation --analyse`
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.common import Answer, effect_of, generated, score, signed, write_study
from experiments.sweeps import QUICK, sweep
from unseen_diffusion.reports.comparison import compare
from unseen_diffusion.reports.result import RESULTS
from unseen_diffusion.utils.files import read_json

ABLATION = (QUICK, "domain.draw=0,1", "seed=0,1", "tolerances=none,pair_distance,calibrated,random")
SWEEPS = (
    sweep("criteria_ablation_hubble", "criteria_ablation", "domain=hubble", tiny=ABLATION),
    sweep("criteria_ablation_textures", "criteria_ablation", "domain=textures", tiny=ABLATION),
)

BASE, CONTROL, FULL = "none", "random", "calibrated"
SINGLE = ("pair_distance", "pair_angle", "origin_angle")
PAIRS = ("distance_pair", "distance_origin", "pair_origin")
ORDER = (BASE, CONTROL, *SINGLE, *PAIRS, FULL, "projection")
VERDICTS = ("helps", "harms", "no effect beyond a tenth", "not resolved")


def points(folders: Sequence[Path]) -> pd.DataFrame:
    """Generated rows with the seconds that selection took per accepted image."""
    table = generated(folders)
    seconds = [read_json(Path(run) / RESULTS)["selection"]["seconds"] for run in table["run"]]
    return table.assign(selection_seconds=seconds / table["n"])


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """One line per domain and acceptance rule; ``compare`` pairs methods, and here the tolerances are the method."""
    frame = compare(table.assign(method=table["tolerances"], tolerances=""), BASE).rename(columns={"method": "accept"})
    cost = table.groupby(["domain", "tolerances"])[["selection_seconds", "seconds_per_image"]].mean()
    keys = list(zip(frame["domain"], frame["accept"], strict=True))
    frame["selection_seconds"] = cost["selection_seconds"].loc[keys].to_numpy()
    place = {name: index for index, name in enumerate(ORDER)}
    return frame.sort_values(["domain", "accept"], key=lambda c: c.map(place) if c.name == "accept" else c)


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the column ``verdict``, by the rules of the README."""
    bases = frame[frame["accept"] == BASE].set_index("domain")["kid_h"]
    cells = int((~frame["accept"].isin((BASE, CONTROL))).sum())
    verdicts = [effect_of(line, "kid_h", bases[line["domain"]], cells) for line in frame.to_dict("records")]
    frame = frame.assign(verdict=verdicts)
    broken = frame[(frame["accept"] == CONTROL) & frame["verdict"].isin(("helps", "harms"))]["domain"]
    frame.loc[frame["domain"].isin(broken), "verdict"] = "no verdict: the control differs"
    frame.loc[frame["accept"] == BASE, "verdict"] = ""
    return frame.reset_index(drop=True)


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results."""
    full = judged(compared(points(folders)))
    kept = ["domain", "accept", "verdict", "draws", "seeds", "n", "selection_seconds"]
    names = ("kid_h", "copy_rate", "coverage", "vendi", "target_conformal", "acceptance", "seconds_per_image")
    kept += [name for name in full if name.startswith(names)]
    write_study(out, folders, full[kept], table(full), draw(full), answers(full))


def table(full: pd.DataFrame) -> pd.DataFrame:
    """The formatted table."""
    records = full.to_dict("records")
    return pd.DataFrame(
        {
            "domain": full["domain"],
            "accept": full["accept"],
            "kept": [f"{line['acceptance']:.0%}" for line in records],
            "KID-H x1000": [score(line, "kid_h") for line in records],
            "less none (p)": [difference(line) for line in records],
            "verdict": full["verdict"],
            "copies": [f"{line['copy_rate']:.1%}" for line in records],
            "conf": [share(line.get("target_conformal")) for line in records],
            "selection, ms": [f"{1000 * line['selection_seconds']:.1f}" for line in records],
        }
    )


def share(value: float | None) -> str:
    """A percentage; empty where no run had the score."""
    return "" if value is None or value != value else f"{value:.0%}"


def difference(line: dict[Any, Any]) -> str:
    """Paired difference to ``none`` with its interval and Holm's p."""
    value = line.get("kid_h_difference")
    if value is None or value != value:
        return ""
    return f"{effect(line)} (p {line['kid_h_p']:.2f})"


def effect(line: dict[Any, Any]) -> str:
    """Paired difference to ``none`` with its interval."""
    return signed(line["kid_h_difference"], line["kid_h_difference_low"], line["kid_h_difference_high"], 1000)


def conclusions(full: pd.DataFrame) -> list[Answer]:
    """The answers, with the verdicts judged again."""
    return answers(judged(full.drop(columns="verdict")))


def table_of(full: pd.DataFrame) -> pd.DataFrame:
    """The formatted table, with the verdicts judged again."""
    return table(judged(full.drop(columns="verdict")))


def answers(full: pd.DataFrame) -> list[Answer]:
    """M3, open question 3 and reviewer 5, by the rules of the README."""
    domains = list(full["domain"].unique())
    tested = full[~full["accept"].isin((BASE, CONTROL))]
    whole = full[full["accept"] == FULL].set_index("domain")
    base = full[full["accept"] == BASE].set_index("domain")
    effects = "; ".join(
        f"{name} {effect(whole.loc[name])}, {whole.loc[name, 'kid_h_difference'] / base.loc[name, 'kid_h']:+.0%} of "
        f"{1000 * base.loc[name, 'kid_h']:.0f}"
        for name in domains
    )
    m3 = "; ".join(f"{name}: {whole.loc[name, 'verdict']}" for name in domains)
    each = ". ".join(f"On {name} {kinds(tested[tested['domain'] == name])}" for name in domains)
    cells = len(tested)
    counts = tested["verdict"].value_counts()
    moved = int(counts.get("helps", 0) + counts.get("harms", 0))
    small = int(counts.get("no effect beyond a tenth", 0))
    least, most = tested["kid_h_difference"].min(), tested["kid_h_difference"].max()
    worst = max((whole.loc[name] for name in domains), key=lambda line: abs(line["kid_h_difference"]))
    helped = [name for name in domains if whole.loc[name, "verdict"] in ("helps", "harms")]
    return [
        Answer(
            "M3",
            f"All three criteria together, by KID-H: {m3}.",
            f"KID-H x1000 less accepting every draw: {effects}; verdicts by intervals that hold for all {cells} cells "
            "together",
            f"All criteria together change KID-H measurably on {len(helped)} of {len(domains)} domains.",
            f"largest: {effect(worst)} x1000",
        ),
        Answer(
            "open 3",
            f"Each criterion, pair, all, projection: {each}.",
            f"KID-H x1000 less accepting every draw, range over {cells} cells: {1000 * least:+.0f} to "
            f"{1000 * most:+.0f}; Holm's p within a domain, intervals that hold for all {cells} cells together",
            f"Of {cells} cells, {moved} criteria help or harm; {small} exclude effects beyond a tenth.",
            f"KID-H x1000 {1000 * least:+.0f} to {1000 * most:+.0f}",
        ),
        cost(full),
    ]


def kinds(part: pd.DataFrame) -> str:
    """Lists the acceptance rules by verdict."""
    counts = [(verdict, list(part[part["verdict"] == verdict]["accept"])) for verdict in part["verdict"].unique()]
    words = []
    for verdict, names in counts:
        words.append(f"{verdict}: {'all' if len(names) == len(part) else ', '.join(names)}")
    return "; ".join(words)


def cost(full: pd.DataFrame) -> Answer:
    """Acceptance and seconds of the criteria."""
    criteria = full[full["accept"].isin((*SINGLE, *PAIRS, FULL))]
    whole = full[full["accept"] == FULL]
    share = (criteria["selection_seconds"] / criteria["seconds_per_image"]).max()
    longest = whole.loc[whole["selection_seconds"].idxmax()]
    kept = ", ".join(
        f"{line['acceptance']:.0%} ({line['acceptance_low']:.0%} to {line['acceptance_high']:.0%}) on {line['domain']}"
        for line in whole.to_dict("records")
    )
    return Answer(
        "reviewer 5",
        f"Bands calibrated to 90% of the references keep {criteria['acceptance'].min():.0%} to "
        f"{criteria['acceptance'].max():.0%} of the candidates, all three together {kept}; selecting costs at most "
        f"{share:.1%} of the time behind an image.",
        f"{1000 * longest['selection_seconds']:.1f} ms per accepted image with all criteria on {longest['domain']}, of "
        f"{longest['seconds_per_image']:.2f} s for everything behind it",
        f"Criteria keep {criteria['acceptance'].min():.0%} to {criteria['acceptance'].max():.0%} of candidates at "
        "hardly any cost.",
        f"selection {1000 * longest['selection_seconds']:.1f} ms per accepted image",
    )


def draw(full: pd.DataFrame) -> Figure:
    """Draws paired differences to ``none`` with intervals, one panel per domain; the band is 10% of none's KID-H."""
    domains = list(full["domain"].unique())
    figure = Figure(figsize=(6 * len(domains), 4), layout="constrained")
    axes = figure.subplots(1, len(domains), squeeze=False, sharey=True)[0]
    for axis, domain in zip(axes, domains, strict=True):
        part = full[full["domain"] == domain]
        tenth = 100 * float(part[part["accept"] == BASE]["kid_h"].iloc[0])
        rows = part[part["accept"] != BASE].iloc[::-1].reset_index(drop=True)
        axis.axvspan(-tenth, tenth, color="0.92", zorder=0)
        axis.axvline(0, color="0.6", lw=0.8)
        value = 1000 * rows["kid_h_difference"]
        low, high = 1000 * rows["kid_h_difference_low"], 1000 * rows["kid_h_difference_high"]
        for place, name in enumerate(rows["accept"]):
            colour = "C1" if name == CONTROL else "C0"
            bars = [[value[place] - low[place]], [high[place] - value[place]]]
            axis.errorbar(value[place], place, xerr=bars, fmt="o", color=colour, capsize=3, ms=5)
            axis.annotate(
                f"keeps {rows['acceptance'][place]:.0%}",
                (1.01, place),
                xycoords=("axes fraction", "data"),
                ha="left",
                va="center",
                fontsize=8,
                color="0.4",
            )
        axis.set_yticks(range(len(rows)), rows["accept"])
        axis.set_title(f"{domain} (grey: ± a tenth of KID-H without criteria)", loc="left", fontsize=10)
        axis.set_xlabel("KID-H x1000, less accepting every draw (95%)")
        axis.spines[["top", "right"]].set_visible(False)
    return figure
