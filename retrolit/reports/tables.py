"""Results as tables of text, for the terminal and for pages alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retrolit.evaluation.score_names import PUBLISHED, SOURCE, in_order, published_models, score_name
from retrolit.evaluation.token_losses import READINGS
from retrolit.reports.load import Evaluation, Run

NEIGHBORS_READ = {
    "in": "occurs in a neighbor read",
    "not in": "occurs in none",
    "nothing to read": "no neighbor to read",
}


@dataclass(frozen=True)
class Table:
    """Cells as text. The first column is of names, the others are of numbers unless they are `texts`."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    texts: bool = False


# ---- of a split, as results.json has it


def readings_table(results: dict[str, Any]) -> Table:
    """A row a reading, with its gain where neighbors are retrieved."""
    head = ["reads", "loss", "perplexity", "word perplexity", "bits per byte", "95 %"]
    gains = results.get("gain", {})
    head += ["gain", "95 %"] if gains else []
    rows = []
    for name in _in_order(results):
        values = results["readings"][name]
        row = [name, f"{values['loss']:.4f}", f"{values['perplexity']:,.2f}", _large(values["word_perplexity"])]
        row += [f"{values['bits_per_byte']:.4f}", _interval(results["bits_per_byte_interval"][name])]
        if gains:
            row += [_number(gains[name]), _interval(results["gain_interval"][name])] if name in gains else ["", ""]
        rows.append(row)
    return Table("what the model reads", head, rows)


def curve_table(results: dict[str, Any]) -> Table:
    """A row a point of the overlap curve."""
    readings = _in_order(results)
    rows = [
        [
            f"{100 * point['at_most']:g} %",
            f"{point['bytes'] / results['bytes']:.1%}",
            *(_number(point["bits_per_byte"][name]) for name in readings),
            _number(point["gain"]["none"]),
            _interval(point["gain_interval"]["none"]),
        ]
        for point in results["overlap_curve"]
    ]
    head = ["overlap at most", "of the text", *readings, "gain over none", "95 %"]
    return Table("bits per byte, by a chunk's overlap with its neighbors", head, rows)


def token_table(results: dict[str, Any]) -> Table:
    """A row a group of tokens: in the neighbors, by the length of their run, and not in them."""
    groups = {NEIGHBORS_READ[name]: part for name, part in results["in_neighbors"].items()}
    runs = {f"  in a run of {name}": part for name, part in results["runs"].items()}
    first = next(iter(groups))
    interval = results["gain_interval"]["none"]
    sure = interval is not None and interval[0] > 0  # of noise there are no shares
    rows = []
    for name, part in ({first: groups.pop(first)} | runs | groups).items():
        share = part["share_of_gain"]["none"]
        rows.append(
            [
                name,
                f"{part['tokens'] / results['tokens']:.1%}",
                *(_number(part["bits_per_byte"][reading]) for reading in ("none", "retrieved")),
                _number(part["gain"]["none"]),
                f"{share:.1%}" if sure and share is not None else "-",
            ]
        )
    head = ["token", "of the tokens", "none", "retrieved", "gain over none", "of the gain"]
    caption = "" if sure else "No shares: the gain of the whole cannot be told from zero."
    return Table("where the gain comes from", head, rows, caption)


# ---- of runs and evaluations


def facts_table(runs: Sequence[Run]) -> Table:
    """What was run: a column a run, a row a fact; facts that no run knows are left out."""
    columns = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for facts in columns for name in facts))
    rows = [[name, *(facts.get(name, "") for facts in columns)] for name in names]
    return Table("settings, data and machine", ["", *(run.name for run in runs)], rows, texts=True)


def index_table(run: Run) -> Table:
    """The cards of the run's indexes, as they print themselves."""
    rows = [
        [name if number == 0 else "", *line.split(None, 1)]
        for name, card in run.cards.items()
        for number, line in enumerate(str(card).splitlines())
    ]
    return Table(f"index card of {run.prepared}", ["", "", ""], rows, texts=True)


def leakage_table(run: Run) -> Table:
    """Copies and near duplicates, by pair of splits."""
    report = run.leakage
    rows = [[f"copies of {pair}", f"{len(copies):,}"] for pair, copies in report["disjoint"].items()]
    rows += [
        [f"near duplicates of {split} documents (Jaccard >= {report['threshold']})", f"{len(twins):,}"]
        for split, twins in report["near_duplicates"].items()
    ]
    return Table(f"leakage report of {run.prepared}", ["", "documents"], rows)


def speed_table(runs: Sequence[Run]) -> Table:
    """A row a run: medians of what training logs of its speed."""
    head = ["run", "tokens per second", "waiting for data", "model FLOPs utilization"]
    rows = []
    for run in runs:
        names = ("speed/tokens_per_second", "speed/data_wait_share", "speed/model_flops_utilization")
        speed, wait, used = (sorted(value for _, value in run.curve(name)) for name in names)
        if speed:
            rows.append(
                [run.name, f"{speed[len(speed) // 2]:,.0f}", f"{wait[len(wait) // 2]:.2%}",
                 f"{used[len(used) // 2]:.1%}" if used else "-"]
            )  # fmt: skip
    return Table("speed, medians over the run", head, rows)


def split_table(runs: Sequence[Run]) -> Table:
    """A row a run of a Retro: medians of the shares of a step."""
    parts = {"data_wait": "waiting for data", "encoder": "encoder", "cross_attention": "cross-attention",
             "decoder": "decoder and loss", "optimizer": "optimizer"}  # fmt: skip
    rows = []
    for run in runs:
        shares = [sorted(value for _, value in run.curve(f"speed/{part}_share")) for part in parts]
        if all(shares):
            rows.append([run.name, *(f"{share[len(share) // 2]:.1%}" for share in shares)])
    return Table("where a step's time goes, medians of the logged steps", ["run", *parts.values()], rows)


def replies_table(runs: Sequence[Run]) -> Table:
    """Bits per byte of held-out replies, as `retrolit test` has logged them; a row a reading of each run."""
    rows = []
    for run in runs:
        names = {name: f"test/bits_per_byte_{name}" for name in READINGS[1:]}
        controls = {name: logged[-1][1] for name, metric in names.items() if (logged := run.curve(metric))}
        for _, bits in run.curve("test/bits_per_byte")[-1:]:
            rows.append([run.name, READINGS[0] if controls else "nothing", _number(bits), ""])
            rows += [["", name, _number(control), _number(control - bits)] for name, control in controls.items()]
    return Table("bits per byte of held-out replies", ["run", "reads", "bits per byte", "gain"], rows)


def task_table(evaluations: Sequence[tuple[str, Evaluation]]) -> Table:
    """A row a score: ours, by the name of who answered, and the paper's of its main scores."""
    results: dict[str, list[dict[str, Any] | None]] = {}
    for _, evaluation in evaluations:
        for task in evaluation.tasks:
            results.setdefault(task, [other.tasks.get(task) for _, other in evaluations])
    models = published_models(one for ours in results.values() for one in ours if one is not None)
    rows = []
    for ours in results.values():
        first = next(result for result in ours if result is not None)
        names = dict.fromkeys(name for result in ours if result is not None for name in in_order(result))
        for number, name in enumerate(names):
            cells = ["-" if result is None else _score(result, name) for result in ours]
            theirs = [str(first["published"].get(name, {}).get(model, "")) for model in models]
            rows.append([first["title"] if number == 0 else "", score_name(name), *cells, *theirs])
    head = [
        "task",
        "score",
        *(name for name, _ in evaluations),
        *(PUBLISHED[model].replace("\n", " ") for model in models),
    ]
    caption = (
        f"{SOURCE}; in brackets: questions asked, of how many."
        if models
        else "In brackets: questions asked, of how many."
    )
    return Table("tasks", head, rows, caption)


def _score(result: dict[str, Any], name: str) -> str:
    if name not in result["scores"]:  # of what was retrieved, where nothing was
        return "-"
    return f"{result['scores'][name]:.2f} ({result['examples']:,}/{result['of']:,})"


def _facts(run: Run) -> dict[str, str]:
    model, data = ("model", "init_args"), ("data", "init_args")
    done, last = max((row["step"] for row in run.rows), default=0), run.setting("trainer", "max_steps")
    config = run.setting(*model, "config") or {}
    decoder = config.get("decoder", config)
    machine, fingerprints = run.surroundings.get("machine", {}), run.surroundings.get("data", {})
    known = {
        "folder": run.folder,
        "class": str(run.setting("model", "class_path") or "").rpartition(".")[2],
        "parameters": f"{run.model['parameters']:,}" if run.model else None,
        "layers": decoder.get("num_layers"),
        "width": decoder.get("hidden_size"),
        "Retro layers": config.get("retro_layers"),
        "fitted to": run.setting(*model, "retrofit_from"),
        "begun from": run.setting(*model, "init_from"),
        "sequence length": run.setting(*data, "sequence_length"),
        "batch": run.setting(*data, "global_batch_size"),
        "neighbors": run.setting(*data, "num_neighbors"),
        "learning rate": run.setting(*model, "optimizer", "lr"),
        "steps": f"{done:,} of {last:,}" if last and last > 0 else f"{done:,}",
        "tokens": _tokens(run),
        "seed": run.setting("seed_everything"),
        "data": run.prepared,
        **{f"fingerprint of {name}": value[:16] for name, value in fingerprints.items() if value},
        "fingerprint of the model": run.model["fingerprint"][:16] if run.model else None,
        "made by": run.surroundings.get("made_by"),
        **machine,
    }
    return {name: str(value) for name, value in known.items() if value not in (None, "")}


def _tokens(run: Run) -> str | None:
    consumed = run.curve("train/consumed_tokens")
    return f"{consumed[-1][1]:,.0f}" if consumed else None


def _in_order(results: dict[str, Any]) -> list[str]:
    """The readings of a split; a file has them sorted."""
    return [reading for reading in READINGS if reading in results["readings"]]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _large(value: float) -> str:
    return f"{value:,.1f}" if value < 1e6 else f"{value:.2e}"


def _interval(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} .. {interval[1]:.4f}"
