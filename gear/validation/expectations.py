"""The data gate: a Great Expectations suite over shard rows, and a deterministic summary."""

from __future__ import annotations

import hashlib
import html
import logging
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gear.core.errors import InputError
from gear.data.captions import MAX_LENGTH, is_text
from gear.data.near_twins import THUMBNAIL, near_twins_between, thumbnail
from gear.data.shards import DECODERS, decode, open_shard, read_split
from gear.ingest.config import DataConfig

UNREADABLE = np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8)
PAGE_HEAD = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:\">"
    "<style>body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem auto;max-width:70rem}"
    "table{border-collapse:collapse}td,th{border:1px solid #8886;padding:.3rem .6rem;"
    "text-align:left;vertical-align:top}nav,.modal,.navbar{display:none}"
    "ul{padding-left:1.2rem}</style>"
)
MAX_NEAR_TWINS = 0.01  # share of validation images that may look like a training image


def frame(folder: Path, size: int) -> pd.DataFrame:
    """Return the rows of both splits without images, with columns that the suite checks.

    The columns are split, sha_ok, decodable, caption_length, caption_is_text, key_in_both_splits,
    image_in_both_splits and looks_like_training (of validation rows). All images are hashed and
    decoded.

    Raises:
        InputError: if there are no shards.
    """
    files = [
        (split, open_shard(f))
        for split in ("train", "val")
        for f in sorted((folder / split).glob("*.parquet"))
    ]
    if not files:
        raise InputError(f"{folder}: no Parquet shards here: run `dvc repro ingest`")
    parts: list[pd.DataFrame] = []
    thumbnails: list[np.ndarray] = []
    for split, file in files:
        for group in range(file.num_row_groups):
            part = file.read_row_group(group).to_pandas()
            images = part.pop("image")
            part["split"] = split
            digests = [hashlib.sha256(image).hexdigest() for image in images]
            part["sha_ok"] = digests == part["sha256"]
            part["image_sha256"] = digests
            shown = list(DECODERS.map(partial(_thumbnail, size=size), images))
            part["decodable"] = [small is not None for small in shown]
            thumbnails += [UNREADABLE if small is None else small for small in shown]
            parts.append(part)
    rows = pd.concat(parts, ignore_index=True)
    rows["caption_length"] = rows["caption"].fillna("").str.strip().str.len()
    rows["caption_is_text"] = [is_text(caption) for caption in rows["caption"].fillna("")]
    for name, column in (("key", "key"), ("image", "image_sha256")):
        train = rows.loc[rows["split"] == "train", column]
        val = rows.loc[rows["split"] == "val", column]
        rows[f"{name}_in_both_splits"] = rows[column].isin(set(train) & set(val))
    rows["looks_like_training"] = _looks_like_training(folder, rows, np.stack(thumbnails))
    return rows.drop(columns="image_sha256")


def _looks_like_training(folder: Path, rows: pd.DataFrame, thumbnails: np.ndarray) -> pd.Series:
    """Return whether each validation image is a near-twin of a training image; None elsewhere."""
    readable = rows["decodable"].to_numpy()
    val = np.flatnonzero(readable & (rows["split"] == "val").to_numpy())
    train = np.flatnonzero(readable & (rows["split"] == "train").to_numpy())
    looks = pd.Series(None, index=rows.index, dtype=object)
    looks[val] = False
    if len(val) and len(train):
        splits = [read_split(folder / name) for name in ("train", "val")]
        start = len(splits[0])

        def read(positions: np.ndarray) -> np.ndarray:
            in_train = positions < start
            images = [splits[0].images(positions[in_train])] if in_train.any() else []
            images += [splits[1].images(positions[~in_train] - start)] if not in_train.all() else []
            return np.concatenate(images)

        pairs = near_twins_between(val, train, thumbnails, read)
        looks[np.unique(pairs[:, 0])] = True
    return looks


def _thumbnail(image: bytes, *, size: int) -> np.ndarray | None:
    """Return the thumbnail of an encoded image; None if it is not one of `size` pixels a side."""
    try:
        pixels = decode(image)
    except Exception:  # decoders of damaged files raise errors of every kind
        return None
    return thumbnail(pixels) if pixels.shape == (size, size, 3) else None


def expectations(manifest: dict[str, Any], data: DataConfig) -> list[Any]:
    """Return the suite for shards of this manifest; every expectation is critical."""
    import great_expectations.expectations as gxe

    classes, size = len(manifest["classes"]), manifest["size"]
    rows = manifest["train"] + manifest["val"]
    true_columns = {
        "sha_ok": [True],
        "decodable": [True],
        "key_in_both_splits": [False],
        "image_in_both_splits": [False],
        "caption_is_text": [True],
    }
    suite = [
        gxe.ExpectTableRowCountToEqual(value=rows),
        gxe.ExpectColumnValuesToBeUnique(column="key"),
        gxe.ExpectColumnValuesToBeBetween(column="label", min_value=0, max_value=classes - 1),
        gxe.ExpectColumnDistinctValuesToContainSet(column="label", value_set=list(range(classes))),
        gxe.ExpectColumnValuesToBeBetween(
            column="caption_length", min_value=1, max_value=MAX_LENGTH
        ),
        gxe.ExpectColumnValuesToBeInSet(column="split", value_set=["train", "val"]),
    ]
    suite += [
        gxe.ExpectColumnValuesToNotBeNull(column=column)
        for column in ("key", "label", "caption", "sha256")
    ]
    suite += [
        gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[size])
        for column in ("width", "height")
    ]
    suite += [
        gxe.ExpectColumnValuesToBeInSet(column=column, value_set=values)
        for column, values in true_columns.items()
    ]
    suite.append(
        gxe.ExpectColumnValuesToBeInSet(
            column="looks_like_training", value_set=[False], mostly=1 - MAX_NEAR_TWINS
        )
    )
    if data.condition == "caption":
        distinct = 1.0 - data.max_duplicate_captions
        suite.append(
            gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(
                column="caption", min_value=distinct
            )
        )
    return suite


def validate(
    rows: pd.DataFrame, manifest: dict[str, Any], data: DataConfig, docs: Path
) -> list[dict[str, Any]]:
    """Run the suite and write Data Docs to `docs`.

    Returns:
        One record per expectation: its name and column, success, and the rows that failed.
    """
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())}
    context.add_data_docs_site(
        "local",
        {
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": store,
        },
    )
    batch = (
        context.data_sources.add_pandas("shards")
        .add_dataframe_asset("rows")
        .add_batch_definition_whole_dataframe("all")
    )
    suite = context.suites.add(
        gx.ExpectationSuite(name="shards", expectations=expectations(manifest, data))
    )
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name="shards", data=batch, suite=suite)
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name="shards",
            validation_definitions=[definition],
            actions=[gx.checkpoint.UpdateDataDocsAction(name="docs")],
            result_format={"result_format": "COMPLETE"},
        )
    )
    outcome = checkpoint.run(batch_parameters={"dataframe": _escaped(rows)})
    for page in docs.rglob("*.html"):
        page.write_text(_offline(page.read_text()))
    results = next(iter(outcome.run_results.values())).results
    return [_record(result, rows) for result in results]


def _escaped(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with names and captions as HTML shows them: the pages do not escape."""
    escaped = {
        column: [html.escape(text) if isinstance(text, str) else text for text in rows[column]]
        for column in ("key", "caption")
    }
    return rows.assign(**escaped)


def _offline(page: str) -> str:
    """Return a page of Data Docs that loads nothing from elsewhere and runs no script."""
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL | re.IGNORECASE)
    page = re.sub(r"<(?:link|img)\b[^>]*(?:href|src)=\"(?:https?:)?//[^>]*>", "", page)
    return re.sub(r"(<head[^>]*>)", rf"\1{PAGE_HEAD}", page, count=1)


def _record(result: Any, rows: pd.DataFrame) -> dict[str, Any]:
    settings = result.expectation_config.kwargs
    failing = result.result.get("unexpected_index_list") or []
    return {
        "expectation": result.expectation_config.type,
        "column": settings.get("column", ""),
        "success": bool(result.success),
        "unexpected": int(result.result.get("unexpected_count") or 0),
        "rows": [f"{rows['split'].iloc[int(i)]}/{rows['key'].iloc[int(i)]}" for i in failing[:20]],
    }
