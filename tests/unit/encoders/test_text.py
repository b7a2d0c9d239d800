"""Test text encoders: hidden states, truncated captions, local weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from gear.core.errors import InputError
from gear.encoders.config import TextConfig
from gear.encoders.text import TextEncoder

WORDS = ["<pad>", "red", "heart", "two", "dogs", "<eos>"]


CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder(TextConfig(), CPU)


def test_another_minilm_than_the_packaged_one_is_not_replaced_by_it() -> None:
    """A published generator has the sha256 of its encoder and no path."""
    own = TextConfig(encoder="minilm", path="", sha256="1" * 64)
    with pytest.raises(InputError, match=r"no \*.safetensors in \(text.path is empty\)"):
        TextEncoder(own, CPU)


def saved(folder: Path, kind: str) -> TextConfig:
    """Save a small random model of a family, with a word tokenizer; return its config."""
    words = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<pad>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": len(WORDS), "hidden_size": 16}
    if kind == "qwen3":
        shape |= {
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
        }
        model: Any = transformers.Qwen3Model(transformers.Qwen3Config(**shape))
    else:
        shape = {
            "vocab_size": len(WORDS),
            "d_model": 16,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 2,
            "d_kv": 8,
        }
        model = transformers.T5EncoderModel(transformers.T5Config(**shape))
    model.save_pretrained(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return TextConfig.model_validate(
        {"encoder": kind, "tokens": 8, "path": str(folder), "sha256": digest}
    )


def test_minilm_gives_its_last_hidden_states(minilm: TextEncoder) -> None:
    states = minilm(["", "red heart"])
    assert [s.shape for s in states] == [(2, 384), (4, 384)]
    assert states[0].dtype == np.float16
    ids = minilm.tokenizer("red heart", return_tensors="pt")
    with torch.inference_mode():
        wanted = minilm.model(**ids).last_hidden_state[0].numpy()
    np.testing.assert_allclose(states[1].astype(np.float32), wanted, atol=2e-3)


def test_a_caption_does_not_depend_on_the_captions_beside_it(minilm: TextEncoder) -> None:
    (alone,) = minilm(["two dogs"])
    beside = minilm(["a much longer caption with a good many words in it", "two dogs"])[1]
    np.testing.assert_allclose(alone.astype(np.float32), beside.astype(np.float32), atol=2e-3)


def test_long_captions_are_cut_to_text_tokens() -> None:
    encoder = TextEncoder(TextConfig.model_validate({"tokens": 6}), CPU)
    assert encoder(["one two three four five six seven"])[0].shape == (6, 384)
    assert encoder.length("one two three four five six seven") == 9


@pytest.mark.parametrize("kind", ["qwen3", "t5"])
def test_local_encoders(tmp_path: Path, kind: str) -> None:
    config = saved(tmp_path / "weights", kind)
    encoder = TextEncoder(config, CPU)
    states = encoder(["red heart two dogs", ""])
    assert states[0].shape == (4, 16), "the empty caption has a token too"
    assert states[1].shape == (1, 16), "the empty caption has a token too"
    alone = encoder(["red heart two dogs"])[0]
    np.testing.assert_allclose(alone.astype(np.float32), states[0].astype(np.float32), atol=5e-3)


def test_weights_that_are_absent_or_others_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"text\.path is empty.*huggingface\.co/Qwen/Qwen3"):
        TextEncoder(TextConfig.model_validate({"encoder": "qwen3"}), CPU)
    config = saved(tmp_path / "weights", "qwen3")
    with pytest.raises(InputError, match=r"has sha256 .*, params.yaml says 123"):
        TextEncoder(config.model_copy(update={"sha256": "123"}), CPU)
    with pytest.raises(InputError, match="t5"):
        TextEncoder(config.model_copy(update={"encoder": "t5"}), CPU)
