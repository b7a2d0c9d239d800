"""Test that a damaged or hostile params.yaml gives one line that names the key."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from gear import params
from gear.cli import main
from gear.core.errors import InputError
from tests.support.hostile import refused
from tests.support.settings import write_params

TEXT = params.to_yaml(params.load_preset("tiny"))
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(8)
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe\x00r", "not UTF-8"),
        (bytes(range(256)) * 40, "not UTF-8"),
        (b"run:\x00", "not YAML"),
        (b"a: " + b"[" * 100_000, "more than 32 levels deep"),
        (b"a: " + b"[" * 40 + b"]" * 40, "more than 32 levels deep"),
        (b"run: {seed: " + b"9" * 5000 + b"}", "a value of 5000 characters"),
        (BOMB.encode(), "aliases (*name) are not read"),
        (b"run: {seed: 1}\nrun: {seed: 2}", 'duplicate key "run"'),
        (b"run: {seed: 1, seed: 2}", 'duplicate key "seed"'),
        (b"run: !!python/object/apply:os.system [touch ran]", "tags (!name) are not read"),
        (b"- run", "not a mapping"),
        (b"1: 2", "key 1 is not a name"),
        (b"run: {seed: 1}\n--- \nrun: {seed: 2}", "another document"),
        (b"run: 3", "run = 3: Input should be a mapping"),
        (b"run: {seed: .inf}", "run.seed = inf"),
        (b"train: {ema: .nan}", "train.ema = nan"),
        (b"loss: {l1: .inf}", "loss.l1 = inf: Input should be a finite number"),
        (b"joint: {steps: true}", "joint.steps = True: true and false are no value of it"),
        (b"joint: {lr_tokenizer: false}", "joint.lr_tokenizer = False"),
        (b"tokenizer: {multipliers: [1, true]}", "tokenizer.multipliers = [1, True]"),
        (
            b"teacher: {encoders: [{name: efficientnet-lite0, layer: true}]}",
            "teacher.encoders.0.layer = True: true and false are no value of it",
        ),
        (
            b"joint: {temperature: {support: true}}",
            "joint.temperature.support = True: true and false are no value of it",
        ),
        (b"joint:\n  steps: 1:30", "joint.steps = '1:30'"),
        (b"joint: {steps: 1e400}", "joint.steps = inf"),
        (b"joint: {steps: 1000000000000}", "joint.steps = 1000000000000"),
        (
            b"host: {trackers: [wandbb]}",
            "'wandbb': Input should be 'dvclive', 'tensorboard', 'wandb'",
        ),
        (b"host: {trackers: wandb}", "host.trackers = 'wandb': Input should be a list"),
        (b"host: {trackers: [wandb, wandb]}", "host.trackers: a tracker is named twice"),
        (b"joint: {temperature: hot}", "joint.temperature = 'hot': Input should be a valid number"),
        (b"joint: {temperature: {support: 0}}", "joint.temperature.support = 0"),
        (b"joint: {temperature: {suport: 4}}", "joint.temperature.suport"),
        (
            b"joint: {temperature: {support: 507}}",
            "joint.temperature.support is 507: it must be under 506.88, 0.99 x the 512 codes of "
            "tokenizer.codes",
        ),
        (b"generator: {dropout: 1.0}", "generator.dropout = 1.0: Input should be less than 1"),
        (b"generator: {class_dropout: 1}", "generator.class_dropout is 1"),
        (b"generator: {width: 1000000000}", "generator.width = 1000000000"),
        (b"generator: {layers: 100000}", "generator.layers = 100000"),
        (b"generator: {width: 190}", "generator: width 190 is not a multiple"),
        (b"tokenizer: {base: 1000000}", "tokenizer.base = 1000000"),
        (b"tokenizer: {multipliers: [1, 2, 2, 2, 2, 2, 2, 2, 2, 2]}", "tokenizer.multipliers"),
        (b"tokenizer: {code_dim: 1000000}", "tokenizer.code_dim"),
        (b"generator: {width: 16380, layers: 500, heads: 1}", "1610 G parameters, over 100 G"),
        (b"tokenizer: {base: 4096, multipliers: [1, 64]}", "is 262144 channels"),
        (b"gan: {layers: 40}", "gan.layers = 40"),
        (
            b"gan: {layers: 4, start_step: 0}",
            "gan.layers is 4 and data.size is 32: the discriminator's last layers would have no "
            "input left, 3 is the largest number that fits",
        ),
        (b"sample: {n: 1}", "sample.n is 1 and evaluate.neighbours is 5"),
        (b"sample: {n: 5}", "sample.n is 5 and evaluate.neighbours is 5"),
        (b"sample: {top_k: 100000}", "sample.top_k is 100000"),
        (b"sample: {prompts: ['']}", "sample.prompts.0"),
        (b"data: {limit: 10}", "tokenizer.batch is 64 and data.limit is 10"),
        (
            b"data: {size: 16, source: folder, root: x}\ntokenizer: {multipliers: [1,1,1,1,1]}",
            "no grid",
        ),
        (b"host: {threads: 100000}", "host.threads"),
        (b"evaluate: {input_size: 100000}", "evaluate.input_size"),
        (b"train: {portable: true}", "portable needs fp32"),
        (b"data: {source: folder, root: " + b"x" * 3000 + b", size: 33}", "data.size = 33"),
        (b'run: {"\\e[31m": 1}', "unknown key"),
        (b"run: {seed: '" + b"\xe2\x80\xae" + b"'}", "run.seed"),
    ],
)
def test_bad_settings_are_one_line(
    content: bytes, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("params.yaml").write_bytes(content)
    started = time.monotonic()
    line = refused(capsys, "validate", says=(says, "params.yaml"))
    assert time.monotonic() - started < 10
    assert "constrained" not in line
    assert "params.yaml: :" not in line
    assert "more)" not in line
    assert len(line) < 500


def test_a_batch_over_the_data_is_refused_before_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_params(Path())
    Path("data/shards").mkdir(parents=True)
    Path("data/shards/manifest.json").write_text('{"train": 10, "val": 2}')
    refused(
        capsys, "tokenizer", says=("tokenizer.batch is 16 and the training split has 10 images",)
    )


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: [", b"a: &x 1\nb: *x", b"- 1", b""])
def test_preset_mends_any_broken_file_and_keeps_it(
    content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("params.yaml").write_bytes(content)
    assert main(["preset", "tiny"]) == 0
    assert params.load() == params.load_preset("tiny")
    if content:
        assert Path("params.yaml.broken").read_bytes() == content
        assert "kept what was there as params.yaml.broken" in capsys.readouterr().out


def test_preset_mends_a_folder_and_a_dangling_link() -> None:
    Path("params.yaml").mkdir()
    assert main(["preset", "tiny"]) == 0
    Path("params.yaml").unlink()
    Path("params.yaml").symlink_to("nowhere")
    assert main(["preset", "tiny"]) == 0
    assert params.load() == params.load_preset("tiny")


def test_mutants_of_settings_are_settings_or_one_line() -> None:
    random = np.random.default_rng(0)
    tokens = [
        b": ",
        b"- ",
        b"[",
        b"}",
        b"&a ",
        b"*a",
        b"!!int ",
        b"\t",
        b"\xff",
        b".inf",
        b"1e999",
        b"\n",
    ]
    for _ in range(400):
        data = bytearray(TEXT.encode())
        for _ in range(int(random.integers(1, 5))):
            place = int(random.integers(len(data)))
            token = tokens[int(random.integers(len(tokens)))]
            data[place : place + int(random.integers(3))] = token
        Path("params.yaml").write_bytes(bytes(data))
        message = ""
        try:
            params.load()
        except InputError as error:
            message = str(error)
        assert "\n" not in message
        assert len(message) < 700


def test_written_settings_are_what_dvc_reads() -> None:
    """Test that PyYAML reads the file like DVC's parser, which the settings use."""
    assert params.flatten(yaml.safe_load(TEXT)) == params.flatten(
        params.load_preset("tiny").model_dump(mode="json")
    )
