"""Runs all benchmarks, or the named ones, and prints their rows with lower bounds (floors).

    python -m benchmarks [NAMES ...] [--device cuda] [--save]

``--save`` writes benchmarks/results.json and the table in benchmarks/README.md (or -DEVICE files off the CPU).
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.costs import costs
from benchmarks.criteria import criteria
from benchmarks.loops import overhead, peers
from benchmarks.measuring import Row, hardware
from benchmarks.memory import memory
from benchmarks.options import options
from benchmarks.paper_scale import paper_scale
from benchmarks.quality import evaluations, sweep
from benchmarks.scores import scores
from benchmarks.simulate import simulation
from benchmarks.store import store
from unseen_diffusion.utils.files import read_json, write_json

HERE = Path(__file__).parent
START, END = "<!-- table -->", "<!-- end of table -->"
ALL: dict[str, Callable[[torch.device], list[Row]]] = {
    "overhead": overhead,
    "peers": peers,
    "criteria": criteria,
    "evaluations": evaluations,
    "sweep": sweep,
    "memory": memory,
    "scores": scores,
    "paper_scale": paper_scale,
    "options": options,
    "costs": costs,
    "simulate": simulation,
    "store": store,
}


def shown(number: float | None) -> str:
    """A value with four digits."""
    return "" if number is None else f"{number:,.0f}" if abs(number) >= 10000 else f"{number:.4g}"


def table(results: dict[str, Any]) -> str:
    """The results as Markdown tables."""
    lines = [results["hardware"] + ".", ""]
    for name, found in results["benchmarks"].items():
        title = (ALL[name].__doc__ or "").splitlines()[0].split(". ", 1)[-1].rstrip(".")
        lines += [f"### {name}", "", f"{title}. {found['seconds']:.0f} s of wall time, load {found['load']:.1f}.", ""]
        lines += ["| what | figure | unit | floor | distance | limit |", "|---|---:|---|---|---:|---|"]
        for row in found["rows"]:
            cells = [row["name"], shown(row["value"]), row["unit"], row["floor"], shown(row["distance"]), row["limit"]]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def measured(names: list[str], device: torch.device, results: dict[str, Any]) -> dict[str, Any]:
    """Runs the benchmarks and prints each row when it is measured."""
    for name in names:
        load, started = os.getloadavg()[0], time.perf_counter()
        rows = ALL[name](device)
        for row in rows:
            floor = f"  [{row.floor}]" if row.floor else ""
            print(f"{name:<12} {row.name:<58} {shown(row.value):>12} {row.unit}{floor}", flush=True)
        spent = time.perf_counter() - started
        results["benchmarks"][name] = {"seconds": spent, "load": load, "rows": [asdict(row) for row in rows]}
    results["benchmarks"] = {name: results["benchmarks"][name] for name in ALL if name in results["benchmarks"]}
    return results


def save(results: dict[str, Any], device: torch.device) -> None:
    """Writes the JSON file, and the table: for a CPU into the README, for a GPU beside it."""
    suffix = "" if device.type == "cpu" else f"-{device.type}"
    write_json(HERE / f"results{suffix}.json", results)
    readme = HERE / "README.md"
    if suffix:
        (HERE / f"table{suffix}.md").write_text(table(results) + "\n", encoding="utf-8")
        return
    before, rest = readme.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{START}\n\n{table(results)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAMES", help=", ".join(ALL))
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--save",
        action="store_true",
        help="write results and table; benchmarks that are not run keep their earlier results",
    )
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.names if name not in ALL]:
        parser.error(f"{unknown[0]}: choose from {', '.join(ALL)}")
    device = torch.device(chosen.device)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    suffix = "" if device.type == "cpu" else f"-{device.type}"
    old = HERE / f"results{suffix}.json"
    kept = read_json(old)["benchmarks"] if chosen.names and old.exists() else {}
    results: dict[str, Any] = {"hardware": hardware(device), "benchmarks": kept}
    print(results["hardware"])
    for name in chosen.names or ALL:
        measured([name], device, results)
        if chosen.save:
            save(results, device)


if __name__ == "__main__":
    main()
