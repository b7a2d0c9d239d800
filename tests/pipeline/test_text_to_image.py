"""Test all stages in their text-to-image form, on a WebDataset with some bad members."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gear import params as config
from gear import paths
from gear.cli import STAGES, main
from gear.core.errors import InputError
from gear.core.model_folder import read_config
from gear.data.shards import read_split
from gear.evaluation.codebook import soft_support
from gear.generator.conditions import conditions_for
from gear.generator.inference import load_generator
from gear.tokenizer.inference import load_tokenizer
from tests.support.datasets import good, settings, write_tar
from tests.support.settings import write_params


def changed(base: config.Config, **sections: dict) -> config.Config:
    raw = base.model_dump()
    for name, values in sections.items():
        raw[name] |= values
    return config.Config.model_validate(raw)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which all stages ran."""
    folder = tmp_path_factory.mktemp("t2i")
    members = good(40)
    members += [
        ("bad.png", b"not a picture"),
        ("bad.txt", b"of nothing"),
        ("../evil.png", b""),
        ("left.png", members[0][1]),
    ]
    members += [("left.json", b'{"caption": "left-pointing hand", "class": "cat"}')]
    for number in range(0, 40, 3):  # images with a second caption, which several of them share
        caption = "a picture" if number % 2 else f"{number} again"
        facts = {"caption": caption, "class": ("cat", "dog")[number % 2]}
        members += [
            (f"again-{number:02d}.png", members[2 * number][1]),
            (f"again-{number:02d}.json", json.dumps(facts).encode()),
        ]
    write_tar(folder / "root" / "00.tar", members)
    base = settings(
        source="webdataset",
        root="root",
        condition="caption",
        limit=0,
        max_reject_share=0.2,
        max_duplicate_captions=0.2,
        val_share=0.2,
    )
    chosen = changed(
        base,
        tokenizer={"steps": 2},
        gan={"start_step": 1},
        joint={"steps": 2, "fd_every": 2, "fd_n": 8},
        generator={"steps": 2, "layers": 3, "tap": 1},
        sample={"n": 16, "guidance": 2.0, "prompts": ("red heart", "left-pointing hand")},
        evaluate={"guidances": (1.0, 3.0), "guidance_n": 8},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params(folder, chosen)
        for stage in STAGES:
            importlib.import_module(f"gear.stages.{stage}").run(config.load())
    return folder


def test_the_report_shows_prompts_agreement_and_guidance(done: Path) -> None:
    page = (done / "reports/index.html").read_text()
    for words in (
        "Agreement with captions",
        "shuffled captions",
        "FD over guidance scale",
        "One row per prompt",
    ):
        assert words in page
    prompts = {
        one["caption"]: one["kind"]
        for one in json.loads((done / "data/samples/prompts.json").read_text())
    }
    val = read_split(done / "data/shards/val")
    assert prompts["red heart"] == "new"
    assert prompts["left-pointing hand"] == (
        "held out" if "left-pointing hand" in val.captions else "seen in training"
    )
    assert sum(kind == "held out" for kind in prompts.values()) >= min(8, len(val))
    assert json.loads((done / "data/shards/rejects.json").read_text())


def test_samples_are_of_the_validation_captions_in_turn(done: Path) -> None:
    val, samples = read_split(done / "data/shards/val"), read_split(done / "data/samples")
    assert samples.captions == [val.captions[i % len(val)] for i in range(16)]


def test_agreement_and_the_sweep_are_recorded_with_their_protocols(done: Path) -> None:
    records = json.loads((done / "reports/protocols.json").read_text())
    for name in ("retrieval_category", "retrieval_own_10%"):
        value, low, high, floor = (
            records[name + part]["value"] for part in ("", "_low", "_high", "_floor")
        )
        assert 0 <= low <= value <= high <= 1
        assert 0 <= floor <= 1
        assert records[name]["protocol"]["floor"] == "captions shuffled"
        assert records[name]["protocol"]["guidance"] == 2.0
    assert [records[f"fd@{scale}"]["protocol"]["guidance"] for scale in ("1", "3")] == [1.0, 3.0]
    assert "clip_score" not in records
    assert not any("fid" in name.lower() for name in records)


def test_the_checkpoint_holds_the_empty_captions_states_and_names_its_encoder(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    generator = load_generator(paths.GENERATOR / "generator")
    given = conditions_for(read_split(paths.SHARDS / "val"), "caption", paths.FEATURES)(
        np.array([0, 1])
    )
    assert generator.cls_embedding.empty.shape[1] == given.states_BTC.shape[2] == 384
    assert read_config(paths.GENERATOR / "generator")["text"]["encoder"] == "minilm"
    with torch.inference_mode():
        tokens = torch.zeros(2, generator.tokens, dtype=torch.int64)
        assert torch.isfinite(generator(tokens, given).logits).all()


def test_generate_draws_prompts_and_refuses_classes(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(done)
    assert (
        main(
            [
                "generate",
                "--prompt",
                "red heart",
                "--prompt",
                "two dogs",
                "--each",
                "2",
                "--guidance",
                "4",
                "--out",
                "grid.png",
            ]
        )
        == 0
    )
    assert "4 images of 2 prompts" in capsys.readouterr().out
    assert (done / "grid.png").stat().st_size > 500
    assert main(["generate", "--classes", "0", "--out", "other.png"]) == 2
    assert "ask with --prompt" in capsys.readouterr().err
    assert not (done / "other.png").exists()


def test_training_without_text_states_says_what_to_run(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    val = read_split(paths.SHARDS / "val")
    with pytest.raises(InputError, match=r"run `dvc repro features` with data.condition caption"):
        conditions_for(val, "caption", tmp_path)


def test_floors_are_of_distinct_images_and_say_how_many(done: Path) -> None:
    records = json.loads((done / "reports/protocols.json").read_text())
    val = read_split(done / "data/shards/val")
    images = len(val.distinct(10**6))
    assert images < len(val) < 16, "the test needs images with two captions, and repeated rows"
    for name in ("fd", "coverage", "recall", "memorised", "memorised_tokens"):
        assert records[f"{name}_floor"]["protocol"]["distinct_images"] == images
    assert records["recall_floor"]["value"] > 0
    assert records["retrieval_own_10%"]["protocol"]["gallery"] == images
    details = json.loads((done / "reports/codebook-details.json").read_text())
    assert {row["probe"]["protocol"]["n"] for row in details["representation"]} == {images}
    page = (done / "reports/index.html").read_text()
    assert f", {images} different ones" in page


def test_the_soft_support_is_of_images_from_the_whole_training_split(done: Path) -> None:
    details = json.loads((done / "reports/codebook-details.json").read_text())
    tokenizer = load_tokenizer(done / "data/models/joint/tokenizer")
    train = read_split(done / "data/shards/train")
    spaced = np.linspace(0, len(train) - 1, 32).round().astype(int)
    expected, of_first = (
        soft_support(tokenizer, train.images(rows), details["temperature"])
        for rows in (spaced, np.arange(32))
    )
    assert details["support"]["joint"] == pytest.approx(expected)
    assert expected != pytest.approx(of_first)


def test_captions_that_are_in_the_training_split_are_not_held_out(done: Path) -> None:
    records = json.loads((done / "reports/protocols.json").read_text())
    train, val = (read_split(done / "data/shards" / name) for name in ("train", "val"))
    seen = sum(caption in set(train.captions) for caption in val.captions)
    assert 0 < seen < len(val)
    count = records["val_captions_seen"]
    assert (count["value"], count["protocol"]["n"]) == (seen, len(val))
    assert json.loads((done / "reports/metrics.json").read_text())["val_captions_seen"] == seen
    of_seen = sum(val.captions[i % len(val)] in set(train.captions) for i in range(16))
    assert records["retrieval_own_10%"]["protocol"]["samples"] == 16 - of_seen
    page = (done / "reports/index.html").read_text()
    assert f"{seen} of {len(val)} validation captions are equal to" in page
