"""The scoreboard of claims, open questions and reviewers' questions, built from the answers of the studies."""

from pathlib import Path

from experiments.common import ANSWERS, BEGIN, END, fill, read_answers

# Key -> the question in a few words (method.md of the paper's claims, its open questions, two public review rounds).
QUESTIONS = {
    "M1": "A model trained on one domain reconstructs arbitrary unseen images",
    "M2": "Inverted unseen images form Gaussians, separable from the training domain's",
    "M3": "The geometric criteria improve the samples",
    "M4": "A larger domain gap gives a larger bandwidth and easier generalisation",
    "M5": "The quality on the original domain is untouched",
    "table 1": "Geometric properties per domain",
    "table 2": "Bandwidth, FID and KID per domain",
    "open 1": "How does the bandwidth vary with the diffusion step?",
    "open 2": "When are latents separable in high dimension?",
    "open 3": "Which geometric criterion helps, and how much?",
    "reviewer 1": "Are the samples new, or the references replayed?",
    "reviewer 2": "How diverse are they?",
    "reviewer 3": "What share is really in the target domain?",
    "reviewer 4": "Is a bandwidth difference of 0.2 against 0.3 significant?",
    "reviewer 5": "Rejection rates and time of the criteria",
    "reviewer 6": "Is the distinction only a larger inversion error?",
    "reviewer 7": "Do the latents follow a Gaussian?",
    "reviewer 8": "Does it depend on the trained network?",
    "reviewer 9": "Sensitivity to the sampler",
    "reviewer 10": "Does a simple density do as well as the criteria?",
    "reviewer 11": "Images between two references",
    "reviewer 12": "Against light fine-tuning on the same references",
    "reviewer 13": "Latent diffusion and conditional models",
    "reviewer 14": "Is the asymmetry one of the schedule or of the model?",
    "reviewer 15": "More pairs of training and unseen domain",
    "reviewer 16": "Robustness to the hyperparameters",
    "yardstick": "Which features tell real images from damaged ones?",
}
OPEN = "not measured yet"
# Questions that no study measures, with the reason.
NOTES = {
    "reviewer 13": "Not measured with trained weights: none are embedded. Latent diffusion, DiT, Stable Diffusion and "
    "class labels run and are tested on small random pipelines of the same classes; with the weights on disk: "
    "`unseen run -m experiment=table2_scores model=ldm_celebahq256`, or `dit_xl2_256`, `sd21_base`",
}


def scoreboard(root: Path) -> str:
    """The scoreboard in Markdown: a row per question and study, in the order of ``QUESTIONS``."""
    found: dict[str, list[str]] = {key: [] for key in QUESTIONS}
    for path in sorted(root.glob(f"*/{ANSWERS}")):
        name = path.parent.name
        for answer in read_answers(path.parent)[0]:
            link = f"[{name}]({name}/README.md)"
            verdict, effect = answer.brief or answer.verdict, answer.brief_effect or answer.effect
            found[answer.question].append(f"| {verdict} | {effect} | {link} |")
    lines = ["| | question | verdict | effect (95% interval) | study |", "| --- | --- | --- | --- | --- |"]
    for key, question in QUESTIONS.items():
        lines += [f"| **{key}** | {question} {row}" for row in found[key] or [f"| {NOTES.get(key, OPEN)} | | |"]]
    return "\n".join(lines)


def write_scoreboard(root: Path) -> None:
    """Updates the scoreboard in ``root``/README.md, or writes a new README."""
    readme = root / "README.md"
    if not readme.exists():
        root.mkdir(parents=True, exist_ok=True)
        readme.write_text(f"# Scoreboard\n\n{BEGIN}\n{END}\n", encoding="utf-8")
    fill(readme, scoreboard(root))
