"""Reads the sweeps' artefacts; writes table.md beside this file.

python experiments/reconstruct/analyse.py outputs/sweeps
"""

import sys
from pathlib import Path

import pandas as pd

from unseen_diffusion.files import read_json
from unseen_diffusion.tables import results_files

HERE = Path(__file__).parent


def line(file: Path) -> dict[str, object]:
    """One run: domain, solver and the round trip at eta 0."""
    results = read_json(file)
    trip = results["reconstruction"]["eta0"]
    geometry = results["geometry"]
    return {
        "domain": results["settings"]["domain"],
        "solver": results["settings"]["solver"],
        "images": trip["count"],
        "PSNR dB": f"{trip['psnr']:.1f} ± {trip['psnr_standard_error']:.1f}",
        "SSIM": f"{trip['ssim']:.3f}",
        "radius": f"{geometry['radius']['mean']:.1f}",
        "pair distance": f"{geometry['pair_distance']['mean']:.1f}",
        "pair angle": f"{geometry['pair_angle']['mean']:.2f}",
        "origin angle": f"{geometry['origin_angle']['mean']:.1f}",
        "residual sd": f"{geometry['residual_sd']['mean']:.3f}",
    }


def main() -> None:
    table = pd.DataFrame([line(file) for path in sys.argv[1:] for file in results_files([path])])
    text = table.to_markdown(index=False, disable_numparse=True) + "\n"
    (HERE / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
