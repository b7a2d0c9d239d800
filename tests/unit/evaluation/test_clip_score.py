"""Test CLIPScore against its formula."""

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
from gear.evaluation.clip_score import clip_score
from gear.evaluation.metric_protocol import Absent

RANDOM = np.random.default_rng(0)


def small_clip(folder: Path) -> PinnedFile:
    """Save a small random CLIP with a letter tokenizer, as transformers does."""
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
    split = read_split(tmp_path / "samples")
    seen = np.array([True, False, False])
    parts = clip_score(weights, split, torch.device("cpu"), {"n": 3}, seen)
    scores = [max(0.0, 100 * c) for c in cosines]
    assert parts["clip_score_seen"].value == pytest.approx(scores[0], abs=1e-3)
    assert parts["clip_score"].value == pytest.approx(np.mean(scores[1:]), abs=1e-3)
    assert parts["clip_score"].protocol["samples"] == 2
    every = clip_score(weights, split, torch.device("cpu"), {"n": 3}, ~seen | seen)
    assert isinstance(every["clip_score"], Absent)
    with pytest.raises(InputError, match=r"evaluate\.clip: .* has sha256"):
        clip_score(
            weights.model_copy(update={"sha256": "0"}),
            read_split(tmp_path / "samples"),
            torch.device("cpu"),
            {},
        )
    other = tmp_path / "clip/other.safetensors"
    other.write_bytes(b"other weights")
    named = PinnedFile(path=str(other), sha256=hashlib.sha256(other.read_bytes()).hexdigest())
    with pytest.raises(InputError, match=r"evaluate\.clip: .*model\.safetensors would be loaded"):
        clip_score(named, split, torch.device("cpu"), {})
    assert clip_score(PinnedFile(), read_split(tmp_path / "samples"), torch.device("cpu"), {}) == {}
