"""Agreement of samples with their captions against naive loops, and CLIPScore against its formula."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from gear.core.errors import InputError
from gear.core.settings import PinnedFile
from gear.data.shards import encode_png, read_split, write_shards
from gear.evaluation import caption_retrieval
from gear.evaluation.clip_score import clip_score

RANDOM = np.random.default_rng(0)
REAL = caption_retrieval.unit(RANDOM.standard_normal((30, 8)), np.zeros(8))
LABELS = np.arange(30) % 3


def test_the_nearest_class_is_that_of_the_largest_cosine() -> None:
    samples = caption_retrieval.unit(RANDOM.standard_normal((20, 8)), np.zeros(8))
    naive = [LABELS[max(range(30), key=lambda m, s=s: float(s @ REAL[m]))] for s in samples]
    assert caption_retrieval.nearest_class(samples, REAL, LABELS).tolist() == naive


def test_own_images_rank_as_a_loop_says() -> None:
    own = RANDOM.integers(0, 30, 50)
    samples = caption_retrieval.unit(REAL[own] + 0.8 * RANDOM.standard_normal((50, 8)), np.zeros(8))
    naive = [
        sum(float(s @ r) > float(s @ REAL[o]) for r in REAL) < 3
        for s, o in zip(samples, own, strict=True)
    ]
    found = caption_retrieval.own_agreement(samples, REAL, own, 0.1)
    assert found.score == pytest.approx(np.mean(naive)) and found.low < found.score < found.high
    assert found.floor == pytest.approx(0.1, abs=0.03), "a shuffled caption's image is anywhere"


def test_samples_that_follow_their_captions_are_told_from_the_floor_and_others_are_not() -> None:
    captions = np.arange(200) % 40
    asked = captions % 4
    followed = np.where(RANDOM.random(200) < 0.7, asked, RANDOM.integers(0, 4, 200))
    found = caption_retrieval.category_agreement(followed, asked, captions)
    assert found.low > found.floor and found.floor == pytest.approx(0.25, abs=0.04)
    blind = caption_retrieval.category_agreement(RANDOM.integers(0, 4, 200), asked, captions)
    assert blind.low < blind.floor < blind.high


def test_the_interval_treats_samples_of_one_caption_as_one() -> None:
    """Ten copies of every caption's outcome say no more than one."""
    hits = (RANDOM.random(40) < 0.5).astype(float)
    once = caption_retrieval.agreement_of_hits(hits, np.arange(40), np.zeros(1))
    often = caption_retrieval.agreement_of_hits(
        np.tile(hits, 10), np.tile(np.arange(40), 10), np.zeros(1)
    )
    assert (once.low, once.high) == pytest.approx((often.low, often.high))
    expected = 1.96 * hits.std() / np.sqrt(40)
    assert (once.high - once.low) / 2 == pytest.approx(expected, rel=0.15)


def small_clip(folder: Path) -> PinnedFile:
    """A random CLIP with a letter tokenizer, saved as transformers does."""
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {
        t: n
        for n, t in enumerate(
            [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
        )
    }
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    transformers.CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        **shape,
        "vocab_size": len(vocabulary),
        "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": len(vocabulary) - 1,
    }
    config = transformers.CLIPConfig(
        text_config=text,
        vision_config={**shape, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    file = folder / "model.safetensors"
    return PinnedFile(path=str(file), sha256=hashlib.sha256(file.read_bytes()).hexdigest())


def test_clip_score_is_100_times_the_cosine(tmp_path: Path) -> None:
    pixels, captions = (
        RANDOM.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8),
        ["red heart", "two dogs", "a"],
    )
    facts = {"label": 0, "width": 32, "height": 32, "sha256": ""}
    rows = [
        {"key": str(n), "image": encode_png(p), "caption": c, **facts}
        for n, (p, c) in enumerate(zip(pixels, captions, strict=True))
    ]
    write_shards(rows, tmp_path / "samples")
    weights = small_clip(tmp_path / "clip")
    found = clip_score(weights, read_split(tmp_path / "samples"), torch.device("cpu"), {"n": 3})[
        "clip_score"
    ]
    folder = str(tmp_path / "clip")
    model, processor = (
        transformers.CLIPModel.from_pretrained(folder).eval(),
        transformers.CLIPProcessor.from_pretrained(folder),
    )
    cosines = []
    for image, caption in zip(pixels, captions, strict=True):
        with torch.inference_mode():
            output = model(
                **processor(text=[caption], images=[image], return_tensors="pt", padding=True)
            )
        a, b = (x[0].double().numpy() for x in (output.image_embeds, output.text_embeds))
        cosines.append(a @ b / np.sqrt((a @ a) * (b @ b)))
    assert found.value == pytest.approx(np.mean([max(0.0, 100 * c) for c in cosines]), abs=1e-3)
    assert found.protocol["weights_sha256"] == weights.sha256
    with pytest.raises(InputError, match=r"evaluate\.clip: .* has sha256"):
        clip_score(
            weights.model_copy(update={"sha256": "0"}),
            read_split(tmp_path / "samples"),
            torch.device("cpu"),
            {},
        )
    assert clip_score(PinnedFile(), read_split(tmp_path / "samples"), torch.device("cpu"), {}) == {}
