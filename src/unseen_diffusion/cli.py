"""The command line: ``unseen <verb> ...``."""

import sys

import hydra
import torch
from omegaconf import DictConfig


@hydra.main(config_path="/work/main/conf", config_name="train", version_base="1.3")
def train_main(config: DictConfig) -> None:
    from unseen_diffusion.training.recipes import train_diffusion

    train_diffusion(config.training, torch.device("cpu"))


def main() -> None:
    verb = sys.argv.pop(1)
    {"train": train_main}[verb]()


if __name__ == "__main__":
    main()
