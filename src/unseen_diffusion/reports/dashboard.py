"""``unseen dashboard``: a wandb workspace that compares the runs of every domain, one section per question."""

import json
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from unseen_diffusion.reports.rows import COMPARISON_ROWS, GENERATED
from unseen_diffusion.reports.tracking import TABLE, check_project, has_key
from unseen_diffusion.scores.metrics import COST, DIVERSE, INSIDE, METRICS, NEAR, NEW
from unseen_diffusion.utils.arguments import Parser
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import write_json

if TYPE_CHECKING:
    import wandb_workspaces.workspaces.interface as ws

NAME = "What has it never seen?"
BY = ("domain", "method", "prior")  # flat config entries that panels group by
ALONG = "eta"  # the flat config entry that panels plot against
COLUMNS = (*BY, "tolerances", "t", ALONG, "draw", "seed", "model", "features", "target")  # of the run table
HEADLINE = ("kid_h", "copy_rate", "coverage", "target_classifier", "evaluations_per_image")  # one per question
PICTURES = ("samples", "reconstructions")
RUNS = 500  # that a panel shows at most; wandb's own default is 10
# For each question of ``METRICS``, in the order of sections: how to read the answer, and the comparison rows to show.
QUESTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    NEAR: (
        "Distances to held-out images: lower is nearer, and held_out is what real images score. PSNR, in dB, is of "
        "references inverted and denoised at the run's own eta: what the solver alone loses.",
        ("held_out", "base_samples"),
    ),
    NEW: (
        "Share of copies of single references: a low one says something only where replay is caught. Distances to the "
        "references that are far below those to held-out images are a sign of copying too.",
        ("held_out", "replay"),
    ),
    DIVERSE: (
        "Share of the held-out images that generated ones come near (recall, coverage), and the effective number of "
        "different images over that of held-out ones (Vendi).",
        ("held_out", "replay"),
    ),
    INSIDE: (
        "How many generated images lie where held-out images do (precision, density), and the share taken for the "
        "target domain rather than the model's own, by a classifier and by conformal nearest neighbours.",
        ("held_out",),
    ),
    COST: ("Share of the candidates within the tolerances; network evaluations and seconds per generated image.", ()),
}
ALONE = ("psnr",)  # scores of the run's references, which comparison rows do not have


def rows_of(name: str) -> tuple[str, ...]:
    """The rows in a score's panel by domain: the generated images and their comparison rows."""
    beside = () if name in ALONE else QUESTIONS[METRICS[name].question][1]
    return (GENERATED, *beside)


def workspace(project: str, entity: str = "") -> "ws.Workspace":
    """The whole dashboard, not yet saved.

    Raises:
        InputError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2.interface as wr
        import wandb_workspaces.workspaces.interface as ws
        from wandb_workspaces import expr
    except ImportError as error:
        raise InputError(
            f"unseen dashboard: {error.name} is not installed; pip install 'unseen-diffusion[dashboard]'"
        ) from error
    main = [f"{GENERATED}/{name}" for name in HEADLINE]
    columns = [f"config:{name}.value" for name in COLUMNS] + [f"summary:{name}" for name in main]
    sections = [
        ws.Section("How to read this", [wr.MarkdownPanel(markdown=guide()), _overview(main)], is_open=True),
        *(_section(question) for question in QUESTIONS),
        ws.Section(
            "Pictures",
            [wr.MediaBrowser(title=name, media_keys=[name], num_columns=2) for name in PICTURES],
            is_open=True,
            layout_settings=ws.SectionLayoutSettings(columns=2, rows=1),
        ),
        ws.Section("Every row of every run", [wr.WeavePanelSummaryTable(table_name=TABLE)]),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=sections,
        settings=ws.WorkspaceSettings(max_runs=RUNS),
        runset_settings=ws.RunsetSettings(
            groupby=[expr.Config("domain")],
            order=[expr.Ordering(expr.Summary(main[0]), ascending=True)],
            pinned_columns=columns,
        ),
    )


def guide() -> str:
    """The text of the first panel, which explains the rows and the sections."""
    rows = "\n".join(f"- `{row}/...` {one.short}" for row, one in COMPARISON_ROWS.items())
    questions = "\n".join(f"- **{question}** {reading}" for question, (reading, _) in QUESTIONS.items())
    return (
        f"Runs are grouped by domain; bars are means over the runs of a group, whiskers their range.\n\n{questions}\n\n"
        f"`{GENERATED}/...` are the images a run generated. Beside them:\n\n{rows}\n\n"
        "Scores of runs with different `features`, `target` or number of images do not compare."
    )


def _overview(main: list[str]) -> Any:
    """A plot of settings and main scores in parallel coordinates, one line per run."""
    import wandb_workspaces.reports.v2.interface as wr

    settings = [wr.ParallelCoordinatesPlotColumn(wr.Config(name)) for name in (*BY, "tolerances", "t", ALONG)]
    scores = [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(name)) for name in main]
    return wr.ParallelCoordinatesPlot(title="every run", columns=[*settings, *scores])


def _section(question: str) -> Any:
    """A section: for each score of a question, panels by domain, method and prior, and against eta."""
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces.interface as ws

    names = [name for name, metric in METRICS.items() if metric.question == question and metric.in_tables]
    panels: list[Any] = []
    for name in names:
        title = f"{name}, {METRICS[name].better} is better" if METRICS[name].better else name
        for setting in BY:
            rows = rows_of(name) if setting == "domain" else (GENERATED,)
            panels.append(
                wr.BarPlot(
                    title=f"{title}: by {setting}",
                    metrics=[f"{row}/{name}" for row in rows],
                    groupby=wr.Config(setting),
                    groupby_aggfunc="mean",
                    groupby_rangefunc="minmax",
                    max_runs_to_show=RUNS,
                )
            )
        y = wr.SummaryMetric(f"{GENERATED}/{name}")
        panels.append(wr.ScatterPlot(title=f"{title}: against {ALONG}", x=wr.Config(ALONG), y=y))
    layout = ws.SectionLayoutSettings(columns=len(BY) + 1, rows=len(names))
    return ws.Section(question.capitalize(), panels, is_open=True, layout_settings=layout)


def view_of(dashboard: "ws.Workspace") -> Any:
    """The form in which wandb stores a workspace; panels keep their own groupings.

    Otherwise the run table's grouping by domain would replace them.
    """
    view = dashboard._to_model()
    view.spec.section.settings.use_runs_table_grouping_in_panels = False
    return view


def definition(dashboard: "ws.Workspace") -> dict[str, Any]:
    """The dashboard as JSON; the same version of this package always gives the same JSON."""
    view = view_of(dashboard)
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    sections = spec["section"]["panelBankConfig"]["sections"]
    for number, panel in enumerate(panel for section in sections for panel in section["panels"]):
        panel["__id__"] = f"panel{number:03d}"  # otherwise wandb chooses random ids
    return {"displayName": view.display_name, "entity": view.entity, "project": view.project, "spec": spec}


def save_online(dashboard: "ws.Workspace") -> str:
    """Saves the dashboard as a new view of the project in wandb, and returns its address.

    Raises:
        InputError: wandb refuses, or cannot be reached.
    """
    import wandb
    from wandb_workspaces.workspaces import internal

    try:
        dashboard.entity = dashboard.entity or str(wandb.Api().default_entity)
        view = view_of(dashboard)
        view.name = dashboard._internal_name = f"nw-{token_hex(6)[:11]}-v"  # wandb's form of a view's name
        internal.upsert_view2(view)
        return str(dashboard.url)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(
            f"unseen dashboard: wandb did not save it ({reason}); check --entity and --project, or leave out --online"
        ) from error


def dashboard_command(arguments: list[str]) -> int:
    """``unseen dashboard``: writes the dashboard's JSON, or saves it online.

    Raises:
        InputError: one line: no key, a name wandb refuses, or wandb-workspaces is missing.
    """
    parser = Parser(
        prog="unseen dashboard", description="Make a wandb workspace that compares runs, grouped by domain."
    )
    parser.add_argument("--project", default="unseen-diffusion", help="wandb project of the runs")
    parser.add_argument("--entity", default="", help="wandb team or user; by default your own")
    parser.add_argument("--save", type=Path, help="JSON file to write (default: dashboard.json, or none with --online)")
    parser.add_argument("--online", action="store_true", help="save the workspace in wandb; needs an API key")
    chosen = parser.parse_args(arguments)
    check_project("--project", chosen.project)
    if chosen.online and not has_key():
        raise InputError("--online: no wandb key found; run `wandb login`, set WANDB_API_KEY, or leave out --online")
    dashboard = workspace(chosen.project, chosen.entity)
    if chosen.save or not chosen.online:
        path = chosen.save or Path("dashboard.json")
        write_json(path, definition(dashboard))
        panels = sum(len(section.panels) for section in dashboard.sections)
        print(f"wrote {path}: {len(dashboard.sections)} sections, {panels} panels, runs grouped by domain")
    if chosen.online:
        print(f"saved {save_online(dashboard)}")
    else:
        entity = f" --entity {chosen.entity}" if chosen.entity else ""
        print("to see it, with a wandb key:")
        print("  wandb login")
        print("  wandb sync outputs/wandb/wandb/offline-run-*    # the runs, unless they were tracked online")
        print(f"  unseen dashboard --online --project {chosen.project}{entity}")
    return 0
