"""Run recipes and seeds as DVC experiments, one after another, and compare them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from flows import artifacts
from flows.child_commands import checkout_lock, exit_with_worker, run_command
from flows.pipeline import DVC, NAME, check_overrides, experiment
from flows.run_labels import Recipe, add_tags, recipes_name, tags_of
from flows.stage_errors import StageError
from gear import paths
from gear.core.errors import InputError


@flow(name="compare-recipes", flow_run_name=recipes_name, persist_result=False)
def compare_recipes(
    recipes: list[Recipe] | None = None,
    seeds: list[int] | None = None,
    overrides: list[str] | None = None,
    label: str = "",
    push: bool = True,
) -> None:
    """Run recipes x seeds as DVC experiments and publish a comparison.

    If one fails (`ste` is expected to collapse), or a push, the others still run and are compared,
    and this run fails at the end. The same call with the same label continues: existing experiments
    are not run again, unless the commit, params.yaml or the overrides have changed.

    Args:
        recipes: Names of joint.recipe; none for gear, continued and llamagen_repa.
        seeds: Values of run.seed; none for 0.
        overrides: Further `section.key=value` settings, the same for all.
        label: Prefix of the names of experiments; empty for the week, as in
            2026-w48-gear-0-1a2b3c.
        push: Push the experiments if a default DVC remote is set.
    """
    exit_with_worker()
    where = Path.cwd()
    logger = get_run_logger()
    if not (where / "dvc.yaml").is_file():
        raise InputError(f"{where}: no dvc.yaml here: run in a checkout")
    label = label or datetime.now(UTC).strftime("%G-w%V")
    if not NAME.fullmatch(label):
        raise InputError(f"label {label!r}: letters, digits, '.', '_' and '-'")
    chosen = [
        (recipe, seed)
        for recipe in recipes or ["gear", "continued", "llamagen_repa"]
        for seed in seeds or [0]
    ]
    for recipe, seed in chosen:
        check_overrides(where, _settings(recipe, seed, overrides))
    add_tags(set().union(*(tags_of(where, _settings(*one, overrides)) for one in chosen)))
    failed: dict[str, str] = {}
    done: list[str] = []
    with checkout_lock(where):
        kept = experiments(where)
        version = version_of(where, overrides or [])
        for recipe, seed in chosen:
            name = f"{label}-{recipe}-{seed}-{version}".replace("_", "-")
            if name in kept:
                logger.info("%s is there already", name)
                done.append(name)
                continue
            state = experiment.with_options(name=name)(
                name,
                _settings(recipe, seed, overrides),
                [],
                where,
                return_state=True,
            )
            if state.is_completed():
                done.append(name)
            else:
                failed[name] = str(state.message)
        if push and done and artifacts.data_remote(where) and (git := artifacts.git_remote(where)):
            try:
                run_command([*DVC, "exp", "push", git, *done], where, logger.info)
            except StageError as error:  # they can be compared all the same
                failed["dvc exp push"] = str(error)
    table = ""
    try:
        table = compared(where, done) if len(done) > 1 else ""
    except StageError as error:
        failed["gear compare"] = str(error)
    lines = ["# Recipes", "", *(["```", table.replace("```", ""), "```"] if table else [])]
    pages = [
        Path(line.removeprefix("page: "))
        for line in table.splitlines()
        if line.startswith(f"page: {paths.REPORTS}/")
    ]
    lines += [
        f"[{page.name}]({artifacts.page_url(page)}) (`make reports-server`)" for page in pages
    ]
    lines += [
        f"- {name}: failed: {artifacts.as_plain_markdown(reason)}"
        for name, reason in failed.items()
    ]
    create_markdown_artifact(
        "\n".join(lines), key="recipes", description=f"{len(done)} of {len(chosen)} experiments"
    )
    if failed:
        raise StageError(
            f"{len(done)} of {len(chosen)} experiments finished; failed: {', '.join(failed)}"
        )


def _settings(recipe: str, seed: int, overrides: list[str] | None) -> list[str]:
    return [f"joint.recipe={recipe}", f"run.seed={seed}", *(overrides or [])]


def version_of(folder: Path, overrides: list[str]) -> str:
    """Return a short hash of a checkout's commit, its params.yaml and overrides.

    Experiments are named by it, so that one of other code or settings is not taken for done.
    """
    command = ["git", "rev-parse", "HEAD"]
    head = subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout
    digest = hashlib.sha256(head)
    digest.update((folder / paths.PARAMS).read_bytes())
    digest.update(json.dumps(overrides).encode())
    return digest.hexdigest()[:6]


def experiments(folder: Path) -> set[str]:
    """Return the names of finished experiments."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        named = repo.experiments.ls(all_commits=True).values()
        return {name for experiments in named for name, _ in experiments}


def compared(folder: Path, names: list[str]) -> str:
    """Return the output of `gear compare`, whose lines are also logged.

    Raises:
        StageError: if they cannot be compared.
    """
    logger = get_run_logger()
    lines: list[str] = []

    def show(line: str) -> None:
        logger.info(line)
        lines.append(line)

    run_command([sys.executable, "-m", "gear", "compare", *names], folder, show)
    return "\n".join(lines)
