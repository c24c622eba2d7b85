"""Generated images against held-out ones, with every extractor: what was added after the result of yardstick.

python -m experiments.yardstick.generated FOLDER...

FOLDERs hold runs on one domain with the same split; writes generated.csv beside this file.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from experiments.common import runs
from experiments.yardstick.measure import CANDIDATES
from unseen_diffusion.scores.features.base import FeatureExtractor, extract
from unseen_diffusion.scores.kernel import kid, permutation_p_value
from unseen_diffusion.scores.manifold import prdc
from unseen_diffusion.store.artefacts import load_tensor
from unseen_diffusion.utils.errors import InputError

HERE = Path(__file__).parent
PERMUTATIONS, NEIGHBOURS = 499, 5


def rows_of(extractor: FeatureExtractor, sets: dict[str, Tensor], target: Tensor) -> Iterator[dict[str, Any]]:
    """KID, precision and coverage of each set of images against ``target``."""
    held_out = extract(extractor, target)
    for name, images in sets.items():
        found = extract(extractor, images)
        distance, near = kid(found, held_out), prdc(found, held_out, NEIGHBOURS)
        yield {
            "extractor": extractor.name,
            "images": name,
            "n": len(images),
            "kid_x1000": 1000 * distance.value,
            "half_95_percent_interval": 500 * (distance.high - distance.low),
            "p": permutation_p_value(found, held_out, PERMUTATIONS, seed=0),
            "precision": near.precision,
            "coverage": near.coverage,
        }


def main(folders: Sequence[str]) -> None:
    """Scores the runs below the folders with every extractor whose files are present."""
    results = runs([Path(folder) for folder in folders])
    split = results[0]["details"]["split"]
    sets = {"real (references)": load_tensor(split, "references")}
    for one in results:
        name = one["settings"]["prior"] or one["settings"]["method"]
        sets[name] = load_tensor(one["details"]["generated"], "images")
    rows: list[dict[str, Any]] = []
    for candidate in CANDIDATES:
        try:
            rows += rows_of(candidate.build(), sets, load_tensor(split, "heldout"))
        except InputError as error:
            print(f"{candidate.name}: left out ({error})", flush=True)
    pd.DataFrame(rows).to_csv(HERE / "generated.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main(sys.argv[1:])
