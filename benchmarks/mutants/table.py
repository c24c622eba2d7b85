"""The committed table of mutations: drawn once by a seed, then edited by hand where the source moves."""

import csv
import random
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks.mutants.operators import Change, python_changes, yaml_changes

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "unseen_diffusion"
TABLE = Path(__file__).parent / "table.csv"


@dataclass(frozen=True)
class Mutation:
    """One line of one file, and what stands there instead."""

    file: str
    """path below the root of the repository"""
    kind: str
    old: str
    """the line as it is, without indentation"""
    new: str
    occurrence: int
    """which of the file's lines with this text, from 0"""
    equivalent: str = ""
    """why no test can notice this change; empty if one should"""

    @property
    def package(self) -> str:
        """``conf``, the package that the file belongs to, or the module directly below the source."""
        parts = Path(self.file).parts
        return "conf" if parts[0] == "conf" else parts[2].removesuffix(".py")

    def line(self, text: str) -> int:
        """The number of the line, from 1; 0 if it is not in the text any more."""
        places = [n for n, line in enumerate(text.splitlines(), 1) if line.strip() == self.old]
        return places[self.occurrence] if self.occurrence < len(places) else 0

    def apply(self, text: str) -> str:
        """The file's text with the wrong line."""
        lines, number = text.splitlines(keepends=True), self.line(text)
        lines[number - 1] = lines[number - 1].replace(self.old, self.new, 1)
        return "".join(lines)


def read() -> list[Mutation]:
    with TABLE.open(newline="") as file:
        return [Mutation(**{**row, "occurrence": int(row["occurrence"])}) for row in csv.DictReader(file)]  # type: ignore[arg-type]


def write(mutations: list[Mutation]) -> None:
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Mutation)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(mutation) for mutation in mutations)


def draw(each: int, seed: int) -> list[Mutation]:
    """``each`` mutations of every package and of conf/: a file's kinds first, then one of that kind, all at random."""
    rng = random.Random(seed)
    strata: dict[str, list[Mutation]] = defaultdict(list)
    for path in [*sorted(SOURCE.rglob("*.py")), *sorted((ROOT / "conf").rglob("*.yaml"))]:
        text = path.read_text()
        changes = yaml_changes(text) if path.suffix == ".yaml" else python_changes(text)
        for mutation in (_mutation(path, text, change) for change in changes):
            strata[mutation.package].append(mutation)
    return [mutation for _, all_of in sorted(strata.items()) for mutation in _sample(all_of, each, rng)]


def _mutation(path: Path, text: str, change: Change) -> Mutation:
    number, line, changed, kind = change
    indent = len(line) - len(line.lstrip())
    same = [n for n, other in enumerate(text.splitlines(), 1) if other.strip() == line.strip()]
    return Mutation(
        path.relative_to(ROOT).as_posix(), kind, line.strip(), changed[indent:].rstrip(), same.index(number)
    )


def _sample(all_of: list[Mutation], count: int, rng: random.Random) -> list[Mutation]:
    """A sample that takes the kinds of changes in turn, so that frequent kinds do not fill it; no line twice."""
    kinds: dict[str, list[Mutation]] = defaultdict(list)
    for mutation in all_of:
        kinds[mutation.kind].append(mutation)
    for members in kinds.values():
        rng.shuffle(members)
    chosen: list[Mutation] = []
    lines: set[tuple[str, str, int]] = set()
    while len(chosen) < count and any(kinds.values()):
        for members in kinds.values():
            while members and len(chosen) < count:
                mutation = members.pop()
                if (place := (mutation.file, mutation.old, mutation.occurrence)) not in lines:
                    lines.add(place)
                    chosen.append(mutation)
                    break
    return sorted(chosen, key=lambda m: (m.file, m.old))
