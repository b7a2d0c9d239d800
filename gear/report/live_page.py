"""Live page of a run: stages with time left and costs, curves, samples over steps, settings.

It looks like the report (`gear.report.page`) and links to it at the end. Its content depends on
machine and time, so it is not part of the report page, whose bytes are hashed.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from gear import paths
from gear.core.errors import InputError
from gear.core.text import one_line
from gear.params import flatten
from gear.report.curves import curve_charts
from gear.report.page import LIVE_PAGE, PNG, render_fragment, render_template
from gear.runs.comparison import differing
from gear.runs.progress import Pipeline, StageProgress, parsed, time_left
from gear.training.reporter import duration

STRIP = re.compile(r"(\d{1,9})\.png")  # name of a file of samples: the step
STRIPS = 24  # maximum pictures of a stage in a page of one file
LARGEST_STRIP = 2 << 20  # bytes
VALUE = 80  # characters of a setting that are shown
SECONDS = 10  # timeout of git
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"


class LivePage:
    """Renders the live page of a checkout from the files as they are at each call."""

    def __init__(self, root: Path) -> None:
        """Open a checkout. Raises `InputError` if `root` is not one."""
        self.pipeline = Pipeline(root)
        self.root = self.pipeline.root
        self._charts: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {}

    def fragments(self, *, whole: bool = False) -> dict[str, str]:
        """Return the HTML of each part of the page, by the id of its place.

        whole: include all pictures, for a page without a server.
        """
        progress = self.pipeline.progress()
        done = {stage.name for stage in progress if stage.state == "done"}
        curves = self._curve_charts(done)
        values: dict[str, dict[str, Any]] = {
            "progress": {
                "stages": [stage_row(stage) for stage in progress],
                "left": time_left(progress, dvc_runs=self.pipeline.dvc_runs()),
                "report": self.report() is not None and _is_done(progress, "report"),
                "whole": whole,
            },
            "samples": {"strips": self._strips(whole, done)},
            "settings": self._settings(),
        }
        # the stage that runs comes first, then the latest
        order = sorted(
            paths.TRAININGS,
            key=lambda name: (
                _state(progress, name) != "running",
                -list(paths.TRAININGS).index(name),
            ),
        )
        values["curves"] = {
            "stages": [
                {"name": name, "state": _state(progress, name), "charts": curves[name]}
                for name in order
                if name in curves
            ]
        }
        return {name: render_fragment(f"live-{name}.html.j2", **of) for name, of in values.items()}

    def html(self, *, whole: bool = False) -> str:
        """Return the page; `whole`: as one file that needs no server."""
        return render_template(
            LIVE_PAGE, fragments=self.fragments(whole=whole), live=not whole, title=self.root.name
        )

    def strip(self, stage: str, step: int) -> str | None:
        """Return a picture of samples as a data URI; None if there is none."""
        if stage not in paths.TRAININGS or step not in self._steps(stage):
            return None
        return _picture(self._strip_folder(stage) / f"{step}.png")

    def report(self) -> bytes | None:
        """Return the finished report; None if there is none."""
        try:
            return (self.root / paths.PAGE).read_bytes()
        except OSError:
            return None

    def _curve_charts(self, done: set[str]) -> dict[str, list[Any]]:
        """Return the charts of each training, redrawn only if there are new rows."""
        found = {}
        for stage, rows in self.pipeline.curves(done).items():
            drawn = self._charts.get(stage)
            if drawn is None or drawn[0] != rows:
                self._charts[stage] = drawn = (rows, curve_charts(rows))
            found[stage] = drawn[1]
        return found

    def _strip_folder(self, stage: str) -> Path:
        return self.root / paths.LOGS / f"{stage}-samples"

    def _steps(self, stage: str) -> list[int]:
        """Return the steps that have a picture of samples."""
        try:
            names = [file.name for file in self._strip_folder(stage).iterdir()]
        except OSError:
            return []
        return sorted(int(match[1]) for name in names if (match := STRIP.fullmatch(name)))

    def _strips(self, whole: bool, done: set[str]) -> list[dict[str, Any]]:
        """Return the sample steps and latest picture of each training; if whole, more pictures.

        Those of a training that is done are left out if they are of another run than its output.
        """
        found = []
        for stage in reversed(paths.TRAININGS):
            if stage in done and not self.pipeline.log_is_of_output(stage):
                continue
            steps = self._steps(stage)
            last = next(
                ((s, p) for s in reversed(steps) if (p := self.strip(stage, s)) is not None), None
            )
            if last is None:
                continue
            known = {last[0]: last[1]}
            if whole:
                every = -(-len(steps) // STRIPS)
                chosen = steps[::-1][::every]
                known |= {step: p for step in chosen if (p := self.strip(stage, step))}
                steps = sorted(known)
            data = {"stage": stage, "steps": steps, "pictures": known}
            found.append(
                {"stage": stage, "step": last[0], "picture": last[1], "data": json.dumps(data)}
            )
        return found

    def _settings(self) -> dict[str, Any]:
        """Return the settings that differ from the last commit, or a note why there are none."""
        try:
            here = self.pipeline.settings()
            committed = committed_settings(self.root)
        except InputError as error:
            return {"rows": [], "note": str(error)}
        flat = [flatten(committed), flatten(here)]
        rows = [
            [key, *(one_line(str(one.get(key, "-")), VALUE) for one in flat)]
            for key in differing(flat, but=())
        ]
        return {"rows": rows, "note": "" if rows else "None: params.yaml is as committed."}


def committed_settings(root: Path) -> dict[str, Any]:
    """Return params.yaml of the last commit. Raises `InputError` if git has none."""
    command = ["git", "--no-optional-locks", "show", f"HEAD:./{paths.PARAMS}"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        raise InputError(f"git has no committed {paths.PARAMS} here") from None
    return parsed(done.stdout, f"{paths.PARAMS} of HEAD")


def stage_row(stage: StageProgress) -> dict[str, Any]:
    """Return the cells of a row of the table of stages."""
    share = None
    if stage.state == "running" and stage.steps and stage.step is not None:
        share = min(100, round(100 * stage.step / stage.steps))
    return {
        "name": stage.name,
        "state": stage.state,
        "share": share,
        "steps": f"step {stage.step} of {stage.steps}" if share is not None else "",
        "seconds": "" if stage.seconds is None else duration(stage.seconds),
        "left": "" if stage.left is None else f"about {duration(stage.left)}",
        "memory": "" if stage.memory is None else f"{stage.memory / 2**30:.2f} GiB",
    }


def _state(progress: list[StageProgress], name: str) -> str:
    return next((stage.state for stage in progress if stage.name == name), "left")


def _is_done(progress: list[StageProgress], name: str) -> bool:
    return _state(progress, name) == "done"


def _picture(file: Path) -> str | None:
    """Return a PNG as a data URI; None if it is missing, too large, or incomplete."""
    try:
        if file.stat().st_size > LARGEST_STRIP:
            return None
        content = file.read_bytes()
    except OSError:
        return None
    if not content.startswith(PNG_START) or not content.endswith(PNG_END):
        return None
    return PNG + base64.b64encode(content).decode()
