"""What each modality brings: scores without the others, who has what, which looks at which."""

from __future__ import annotations

from rainbow_ray.html_report.html import Section, Table, number
from rainbow_ray.html_report.run_artifacts import RunArtifacts


def modality_section(run: RunArtifacts) -> list[Section]:
    """Nothing for runs that read one modality."""
    summary = run.summary
    found = summary.get("modalities")
    if not found:
        return []
    metric = summary["metric"]
    shown = list(dict.fromkeys([metric, *(name for name in run.task.defaults.shown_metrics if name != "loss")]))
    ordered = sorted(found.items(), key=lambda item: item[0].count("+"), reverse=True)
    rows = [[_named(name), str(values["songs"]), *(number(values.get(one)) for one in shown),
             number(values["all_of_them"])] for name, values in ordered]  # fmt: skip
    names = [*(name.replace("_", " ") for name in shown), f"{metric.replace('_', ' ')} of all on these"]
    tables = [Table(["read at prediction", "songs", *names], rows, strong=0)]
    presence = run.profile.get("presence", {})
    unit = {"stem": "stems"}.get(summary.get("unit", ""), "songs")
    tables.append(Table([f"{unit} that have", ""], [[_named(name), str(n)] for name, n in presence.items()]))
    attention = summary.get("attention")
    if attention:
        names = list(attention)
        shares = [[name, *(f"{attention[name][other]:.0%}" if other != name else "–" for other in names)]
                  for name in names]  # fmt: skip
        tables.append(Table(["looks at", *names], shares))
    text = ["Scores of held-out songs with the same models, as if songs had nothing but what is named: of those that"
            " have any of it, with what all modalities give on the same songs in the last column. Before anything is"
            " measured, the scores of a song's stems are averaged."]  # fmt: skip
    if attention:
        text.append("Of the attention of each modality's tokens, how much goes to each other modality, on average.")
    return [Section("modalities", "What each modality brings", text, tables)]


def _named(modalities: str) -> str:
    return modalities.replace("+", " + ") or "nothing"
