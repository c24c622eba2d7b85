"""The sweeper of ``unseen run -m`` and ``unseen resume``. Hydra loads sweepers from the package hydra_plugins only."""

import logging
import time
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)


class ManifestSweeper(BasicSweeper):
    """Starts the pending jobs of a sweep's manifest, each in the folder of its number."""

    config: DictConfig  # Hydra sets these before it calls sweep
    launcher: Launcher

    def sweep(self, arguments: list[str]) -> Any:
        """Launches the pending jobs; if the launcher fails, launches those again that it never started.

        Launchers stop waiting at the first worker that dies (Ray, submitit) or kill the others with it (joblib).
        The jobs come from the manifest, not from the command line.
        """
        from unseen_diffusion.sweeps.manifest import hide_secrets
        from unseen_diffusion.sweeps.states import SweepState
        from unseen_diffusion.sweeps.status import is_this_process

        folder = Path(self.config.hydra.sweep.dir)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        hide_secrets(folder)
        names = SweepState.of(folder).pending()
        while names:
            if self._launch(folder, names):
                return
            # A job of this very process has ended, even if a full disk kept it from recording its end.
            while any(not is_this_process(status) for status in SweepState.of(folder).running()):
                time.sleep(1)
            missing = SweepState.of(folder).pending("missing")
            if missing == names:  # the launcher starts no job at all
                return
            names = missing

    def _launch(self, folder: Path, names: list[str]) -> bool:
        """Starts these jobs, at most ``max_batch_size`` at once; False if the launcher failed."""
        from unseen_diffusion.sweeps.manifest import overrides_of

        overrides = overrides_of(folder.resolve())
        jobs = [[*overrides[name], f"hydra.sweep.subdir='{name}'"] for name in names]
        size = self.max_batch_size or len(jobs)
        try:
            for start in range(0, len(jobs), size):
                self.launcher.launch(jobs[start : start + size], initial_job_idx=start)
        except Exception as error:  # each job's folder records how the job ended
            log.error("the launcher gave up: %s: %s", type(error).__name__, str(error).strip().partition("\n")[0])
            return False
        return True
