"""The sweeper behind ``unseen run -m`` and ``unseen resume``. Hydra takes sweepers from this package only."""

from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import OmegaConf


class ManifestSweeper(BasicSweeper):
    """Starts those jobs of the sweep's manifest that are to do, each in the folder of its number."""

    def sweep(self, arguments: list[str]) -> Any:
        """Launches them, at most ``max_batch_size`` at once. The manifest gives them, not the command line."""
        from unseen_diffusion.sweeps import SweepState

        assert self.config is not None  # Hydra has called setup
        assert self.launcher is not None
        folder = Path(self.config.hydra.sweep.dir)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        sweep = SweepState.of(folder)
        points = dict(zip(sweep.manifest.names(), sweep.manifest.points, strict=True))
        jobs = [[*points[name].overrides, f"hydra.sweep.subdir='{name}'"] for name in sweep.pending()]
        size = self.max_batch_size or max(len(jobs), 1)
        return [self.launcher.launch(jobs[at : at + size], initial_job_idx=at) for at in range(0, len(jobs), size)]
