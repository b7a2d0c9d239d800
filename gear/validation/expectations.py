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
import pyarrow as pa

from gear.core.errors import InputError
from gear.data.captions import MAX_LENGTH, is_text
from gear.data.near_twins import THUMBNAIL, near_twins_between, thumbnail
from gear.data.shards import DECODERS, SCHEMA, decode, open_shard, read_split
from gear.ingest.config import DataConfig

SMALL = (THUMBNAIL, THUMBNAIL, 3)
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
    """Return the rows of both splits without images, with the columns that the suite checks.

    Added are split, sha_ok, decodable, caption_length, caption_is_text, key_in_both_splits,
    image_in_both_splits and looks_like_training (None but for decodable validation rows). All
    images are hashed and decoded, one row group at a time.

    Raises:
        InputError: if there are no shards, or one is damaged.
    """
    files = [(s, f) for s in ("train", "val") for f in sorted((folder / s).glob("*.parquet"))]
    if not files:
        raise InputError(f"{folder}: no Parquet shards here: run `dvc repro ingest`")
    count = sum(open_shard(file).metadata.num_rows for _, file in files)
    hashes = np.empty(count, dtype="S32")
    decodable = np.zeros(count, dtype=bool)
    thumbnails = np.zeros((count, *SMALL), np.uint8)
    parts: list[pa.Table] = []
    start = 0
    for _, path in files:  # one is open at a time: pages read from it stay in memory
        file = open_shard(path)
        parts.append(file.read(columns=[name for name in SCHEMA.names if name != "image"]))
        for group in range(file.num_row_groups):
            images = file.read_row_group(group, columns=["image"])["image"].to_pylist()
            shown = DECODERS.map(partial(_thumbnail, size=size), images)
            for row, (image, small) in enumerate(zip(images, shown, strict=True), start):
                hashes[row] = hashlib.sha256(image).digest()
                if small is not None:
                    decodable[row], thumbnails[row] = True, small
            start += len(images)
    rows = pa.concat_tables(parts).to_pandas()
    sizes = [len(part) for part in parts]
    del parts
    splits = np.repeat([split == "val" for split, _ in files], sizes)
    rows["split"] = pd.Categorical.from_codes(splits.astype(np.int8), ["train", "val"])
    rows["sha_ok"] = _same_hashes(hashes, rows["sha256"])
    rows["decodable"] = decodable
    rows["caption_length"] = rows["caption"].fillna("").str.strip().str.len()
    captions = (is_text(caption) for caption in rows["caption"].fillna(""))
    rows["caption_is_text"] = np.fromiter(captions, dtype=bool, count=count)
    keys = rows["key"]
    shared = keys[~splits].isin(keys[splits])
    rows["key_in_both_splits"] = keys.isin(keys[~splits][shared])
    rows["image_in_both_splits"] = np.isin(hashes, np.intersect1d(hashes[splits], hashes[~splits]))
    rows["looks_like_training"] = _looks_like_training(folder, rows, thumbnails)
    return rows


def _same_hashes(hashes: np.ndarray, recorded: pd.Series) -> np.ndarray:
    """Return whether each digest, (N,) S32, equals the recorded hexadecimal one, (N,) bool."""
    pairs = zip(hashes, recorded, strict=True)
    same = (name == bytes(digest).ljust(32, b"\0").hex() for digest, name in pairs)
    return np.fromiter(same, dtype=bool, count=len(hashes))


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
    }
    # runs on classes read no captions, and a class's folder may be called "_": unreadable ones are
    # counted, and do not fail
    share = 1.0 if data.condition == "caption" else 0.0
    suite = [
        gxe.ExpectTableRowCountToEqual(value=rows),
        gxe.ExpectColumnValuesToBeUnique(column="key"),
        gxe.ExpectColumnValuesToBeBetween(column="label", min_value=0, max_value=classes - 1),
        gxe.ExpectColumnDistinctValuesToContainSet(column="label", value_set=list(range(classes))),
        gxe.ExpectColumnValuesToBeBetween(
            column="caption_length", min_value=1, max_value=MAX_LENGTH, mostly=share
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
        gxe.ExpectColumnValuesToBeInSet(column="caption_is_text", value_set=[True], mostly=share)
    )
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
        One record per expectation: its name and column, success, and the number and the first
        twenty of the rows that failed.
    """
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    # the default configuration also writes Data Docs to a temporary folder, and leaves it there
    stores = DataContextConfig(store_backend_defaults=InMemoryStoreBackendDefaults())
    context = gx.get_context(mode="ephemeral", project_config=stores)
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
    outcome = checkpoint.run(batch_parameters={"dataframe": _checked(rows, data)})
    for page in docs.rglob("*.html"):
        page.write_text(_offline(page.read_text()))
    results = next(iter(outcome.run_results.values())).results
    return [_record(result, rows) for result in results]


def _checked(rows: pd.DataFrame, data: DataConfig) -> pd.DataFrame:
    """Return the rows for the suite, which copies them several times, in less memory.

    Keys and captions are HTML-escaped, because Data Docs does not escape them. Of text columns that
    are only checked for null, the texts are dropped.
    """
    absent = ["sha256"] if data.condition == "caption" else ["sha256", "caption"]
    columns = {name: rows[name].mask(rows[name].notna(), "").astype("category") for name in absent}
    for name in {"key", "caption"} - set(absent):
        columns[name] = rows[name]
        for character in "&<>\"'":  # & first, as html.escape does
            escaped = html.escape(character)
            columns[name] = columns[name].str.replace(character, escaped, regex=False)
    return rows.assign(**columns)


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
