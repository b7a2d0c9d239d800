"""Fixtures shared by unit tests: a process group and a random Inception."""

from __future__ import annotations

import hashlib
import io

import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from gear.core.memory import keep_freed_memory
from gear.core.settings import PinnedFile
from gear.encoders.inception import Inception, build_inception
from gear.params import Config
from gear.training.distributed import DistributedContext, join_process_group


@pytest.fixture(scope="session")
def world(tiny: Config) -> DistributedContext:
    """Return a process group of this process alone."""
    return join_process_group(tiny.host, tiny.run.seed)


class Fresh(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception without downloading its weights."""

    def load_state_dict(self, state_dict, strict=True, assign=False):  # type: ignore[no-untyped-def]
        return None


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> PinnedFile:
    keep_freed_memory()
    torch.manual_seed(0)
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    network = Fresh("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            # features must be large enough to tell images apart
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    file = tmp_path_factory.mktemp("inception") / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(network.state_dict(), file)
    return PinnedFile(path=str(file), sha256=hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.fixture(scope="session")
def inception(inception_weights: PinnedFile) -> Inception:
    return build_inception(inception_weights).train()
