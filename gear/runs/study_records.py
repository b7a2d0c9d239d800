"""Records of a study's runs: small JSON files in git, from which its page is rendered."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gear import paths
from gear.core.errors import InputError
from gear.core.files import parse_json, read_json, replace_file
from gear.core.settings import Section, parse_section
from gear.evaluation.metric_protocol import Metric, absent_records, require_records
from gear.params import Config, from_values, result_settings
from gear.report.curves import generator_curve
from gear.runs import costs
from gear.runs.recorded_pictures import first_samples
from gear.runs.revision import Locked, MissingContentError, Revision, installed_code
from gear.runs.study_file import PlannedRun, Study, short_hash
from gear.runs.study_values import CODEBOOK, FEATURES, LIKENESS

SHOWN = 24  # samples of a run on the page
CODE = "gear/"
UNRECORDED = ("validate", "report")  # stages whose outputs are in no record
OF_WARM_UP = ("run", "data", "tokenizer", "loss", "gan", "train")  # sections of its settings
Rows = list[dict[str, float]]


class Record(Section):
    """Measurements of one run.

    settings: All settings that can change a result, by dotted name.
    commit: Commit of the DVC experiment. code: `code_hash` of the code that ran.
    plan: Hash of the study's arms, seeds, settings and predictions when the run ended.
    metrics: `{"value": ..., "protocol": ...}` by name.
    curve: Rows that the joint stage and stage 2 logged.
    curve_protocol: How the metrics of the curve were measured.
    warm_up: Rows that the tokenizer stage logged. tokenizer: md5 of its output; "" if unknown.
    seconds: Seconds by stage, for stages that ran on this machine.
    flops: FLOPs of all training steps by stage, estimated from shapes.
    provenance: Hardware, threads and package versions.
    """

    arm: str
    seed: int
    settings: dict[str, Any]
    commit: str
    code: str
    plan: str
    metrics: dict[str, dict[str, Any]]
    curve: Rows
    curve_protocol: dict[str, Any]
    warm_up: Rows
    seconds: dict[str, float]
    flops: dict[str, float]
    provenance: dict[str, Any]
    tokenizer: str = ""

    def metric(self, name: str) -> Metric | None:
        """Return a metric; None if it was not measured."""
        found = self.metrics.get(name)
        return None if found is None else Metric(found["value"], found["protocol"])

    def points(self, quantity: str) -> list[tuple[float, float]]:
        """Return the points (step, value) of a quantity of the curve."""
        return [(row["step"], row[quantity]) for row in self.curve if quantity in row]

    def last_value(self, name: str) -> float | None:
        """Return a metric, else the last value of a quantity of the curve.

        None if there is neither, or it is not finite.
        """
        metric, points = self.metric(name), self.points(name)
        value = metric.value if metric is not None else points[-1][1] if points else math.nan
        return value if math.isfinite(value) else None

    def protocol_of_curve(self, quantity: str) -> Any:
        """Return how a quantity of the curve was measured; None for losses, which need no protocol.

        `val/ntp_bits` has the protocol `val`.
        """
        return self.curve_protocol.get(quantity.partition("/")[0])


Runs = dict[int, Record]  # of one arm, by seed


def by_arm_and_seed(records: Sequence[Record]) -> dict[str, Runs]:
    """Return records by arm, then by seed."""
    found: dict[str, Runs] = {}
    for record in records:
        found.setdefault(record.arm, {})[record.seed] = record
    return found


def unlike(one: Record, other: Record) -> str:
    """Return why two runs of a seed cannot be compared, such as other hardware; "" if they can."""
    if name := other_machine(one.provenance, other.provenance):
        return f"made with other {name}"
    if one.code != other.code:
        return "made by other code"
    return "started from another warm tokenizer" if _other_start(one, other) else ""


def _other_start(one: Record, other: Record) -> bool:
    """Return whether two runs with equal settings of the warm-up have different warm tokenizers.

    Records without the md5 of the tokenizer are compared by the rows of its training.
    """
    first, second = (
        {key: value for key, value in record.settings.items() if key.split(".")[0] in OF_WARM_UP}
        for record in (one, other)
    )
    if first != second:
        return False
    if one.tokenizer and other.tokenizer:
        return one.tokenizer != other.tokenizer
    return bool(one.warm_up and other.warm_up) and one.warm_up != other.warm_up


def other_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return the first of hardware, threads and packages that differs; "" if none does."""
    names = ("hardware", "threads", "packages")
    return next((name for name in names if one.get(name) != other.get(name)), "")


def code_hash(stages: Mapping[str, Locked]) -> str:
    """Return the hash of the code of all stages whose outputs a record is made from."""
    stages = {name: stage for name, stage in stages.items() if name not in UNRECORDED}
    made = {path for stage in stages.values() for path in stage.outs}
    files = {
        path: md5
        for stage in stages.values()
        for path, md5 in stage.deps.items()
        if path not in made and path.startswith(CODE)
    }
    return short_hash(files | installed_code(stages))


def comparable_curves(one: Record, other: Record, quantity: str) -> bool:
    """Return whether the curves of two runs of a seed can be subtracted."""
    same = one.protocol_of_curve(quantity) == other.protocol_of_curve(quantity)
    return same and not unlike(one, other)


def record_file(study: Study, run: PlannedRun) -> Path:
    """Return the file that holds a run's record."""
    return study.folder / "runs" / f"{run.name}.json"


def samples_file(study: Study, run: PlannedRun) -> Path:
    """Return the picture of a run's samples."""
    return study.folder / "runs" / f"{run.name}.png"


def load_record(study: Study, run: PlannedRun) -> Record | None:
    """Return the record of a run; None if there is none.

    Settings that were added after it was written count as their defaults.

    Raises:
        InputError: if the file is damaged, or the record has other settings.
    """
    file = record_file(study, run)
    if not file.is_file():
        return None
    values = read_json(file)
    if not isinstance(values, dict):
        raise InputError(f"{file}: no record of a run: restore it from git, or delete it and run")
    record = parse_section(Record, values, f"{file}: damaged, restore it from git or delete it: ")
    require_records(record.metrics, str(file))
    damaged = f"{file}: damaged, restore it from git or delete it: "
    if (record.arm, record.seed) != (run.arm, run.seed):
        raise InputError(f"{damaged}it is of {record.arm}-{record.seed}")
    if any("step" not in row for row in (*record.curve, *record.warm_up)):
        raise InputError(f"{damaged}a row of a curve has no step")
    given = {".".join(key.split(".")[:2]) for key in record.settings}
    settings = record.settings | {
        key: value
        for key, value in result_settings(Config()).items()
        if ".".join(key.split(".")[:2]) not in given
    }
    for key in sorted(settings.keys() | run.settings.keys()):
        if settings.get(key) != run.settings.get(key):
            raise InputError(
                f"{file}: is of {key} {settings.get(key, '-')}, and {study.file} now has "
                f"{run.settings.get(key, '-')}: delete the record to have it made again, or copy "
                "the study under another name"
            )
    return record


def keep_record(
    study: Study, run: PlannedRun, revision: Revision, flops: dict[str, float]
) -> Record:
    """Read the results of an experiment; write its record and the picture of its samples.

    Raises:
        InputError: if the experiment lacks a result, or has other settings.
    """
    ran = from_values(revision.read_yaml(str(paths.PARAMS)), f"{paths.PARAMS} of {revision.name}")
    if result_settings(ran) != run.settings:
        raise InputError(
            f"experiment {revision.name} has other settings than {run.name}: "
            f"`dvc exp remove {revision.name}`, and run the study again"
        )
    lock = revision.lock()
    made = {path: md5 for stage in lock.values() for path, md5 in stage.outs.items()}
    known = {name: costs.find(revision.root, stage) for name, stage in lock.items()}
    trained_on = (known.get("joint") or {}).get("machine")
    provenance = trained_on or revision.provenance()
    values = {
        "arm": run.arm,
        "seed": run.seed,
        "settings": run.settings,
        "commit": revision.commit,
        "code": code_hash(lock),
        "plan": study.plan,
        "metrics": _metrics(revision),
        "curve": _curve(revision, ran, lock),
        "curve_protocol": revision.read_json(str(paths.JOINT / "curves-protocol.json")) or {},
        "warm_up": _rows(revision, paths.TOKENIZER),
        "tokenizer": made.get(str(paths.TOKENIZER), ""),
        "seconds": {name: cost["seconds"] for name, cost in known.items() if cost},
        "flops": flops,
        "provenance": {
            key: provenance[key]
            for key in ("hardware", "threads", "torch_cpu_capability", "packages")
            if key in provenance
        },
    }
    record = parse_section(Record, values, f"{revision.name}: ")
    replace_file(samples_file(study, run), _strip(revision))
    text = json.dumps(record.model_dump(), indent=1, sort_keys=True) + "\n"
    replace_file(record_file(study, run), text.encode())  # last: a record means that all is written
    return record


def _metrics(revision: Revision) -> dict[str, dict[str, Any]]:
    """Return the metrics of evaluate and codebook; those of the alignment have short names."""
    source = str(paths.REPORTS / "protocols.json")
    records = require_records(revision.read_json(source), f"{source} of {revision.name}")
    details = revision.read_json(str(paths.REPORTS / "codebook-details.json")) or {}
    found = dict(records)
    for when, prefix in (("joint", ""), ("warm", "warm_")):
        for name in CODEBOOK:
            if name in details.get(when, {}):
                found[prefix + name] = Metric(details[when][name], {"split": "train"}).record()
    if "churn" in details:
        found["churn"] = Metric(details["churn"], {"split": "train"}).record()
    for when, measured in details.get("support", {}).items():
        found[f"support/{when}"] = Metric(measured["effective_support"], {}).record()
    teachers = list(dict.fromkeys(row["teacher"] for row in details.get("representation", ())))
    for row in details.get("representation", ()):
        place = f"{FEATURES[row['features']]}/{teachers.index(row['teacher']) + 1}"
        found |= {
            f"{name}/{place}": row[name]
            for name in LIKENESS
            if name in row and name not in absent_records(row)
        }
    return found


def _curve(revision: Revision, ran: Config, stages: Collection[str]) -> Rows:
    """Return the rows of the generator's trainings; steps of stage 2 continue those of joint."""
    joint = _rows(revision, paths.JOINT)
    if not ran.generator.steps or "generator" not in stages:
        return joint
    alone = _rows(revision, paths.GENERATOR)
    return alone if ran.generator.start == "scratch" else generator_curve(joint, alone)


def _rows(revision: Revision, folder: Path) -> Rows:
    file = str(folder / "curves.jsonl")
    content = revision.read(file)
    if content is None:
        raise InputError(f"{file} of {revision.name} is not in DVC's cache: run the study again")
    return [parse_json(line, f"{file} of {revision.name}") for line in content.splitlines()]


def _strip(revision: Revision) -> bytes:
    """Return the first samples of a run side by side, as PNG."""
    try:
        images = [sample.pixels for sample in first_samples(revision, SHOWN)]
    except MissingContentError as error:
        raise InputError(f"{error}: run the study again") from None
    picture = Image.fromarray(np.concatenate(images, axis=1))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
