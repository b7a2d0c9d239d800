"""Base class of models on the Hugging Face Hub: download, saving and model cards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import HfApi, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HFValidationError

from gear.core.errors import InputError
from gear.core.model_folder import CONFIG, WEIGHTS
from gear.core.text import one_line

LIBRARY = "gear-autoregression"
PAPER = "https://arxiv.org/abs/2606.32039"
TAGS = ("gear", "image-generation", "autoregressive", "vector-quantization")
# files to download from a repository on the Hub; no code is loaded
FILES = [f"{part}{name}" for part in ("", "tokenizer/", "generator/") for name in (CONFIG, WEIGHTS)]
CARD = """---
{{ card_data }}
---

# {{ title }}

{{ summary }}

| | |
|---|---|
{% for name, value in facts.items() -%}
| {{ name }} | {{ value }} |
{% endfor %}
{% if data %}
## Training data
{{ data }}
{% endif %}
{% if metrics %}
## Metrics
| metric | value | protocol |
|---|---|---|
{% for row in metrics -%}
| {{ row.name }} | {{ row.value }} | {{ row.protocol }} |
{% endfor %}
{% endif %}
## Use it

```python
import gear

{{ usage }}
```

Paper: {{ paper }}.
"""


class HubModel(ModelHubMixin, library_name=LIBRARY, model_card_template=CARD, tags=[*TAGS]):
    """Base class of a trained model that was loaded from `folder`.

    not_beside: names in a folder that models of this class are never saved to.
    """

    folder: Path
    not_beside: tuple[str, ...] = ()

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Any,
    ) -> str | None:
        """Write the current weights, config.json and a model card to a folder.

        Args:
            save_directory: The folder.
            push_to_hub: Whether to upload it too.
            repo_id: The repository of the upload, by default the folder's name. The model card
                names it, with its owner.
            options: Those of `huggingface_hub.ModelHubMixin.save_pretrained`.

        Returns:
            The URL of the upload; None if there was none.

        Raises:
            InputError: if it is a file, the model was loaded from that folder, or another kind of
                model is in it.
        """
        target = Path(save_directory)
        if target.exists() and not target.is_dir():
            raise InputError(f"{target}: is a file: name a folder")
        if target.resolve() == self.folder.resolve():
            raise InputError(f"{target}: the model was loaded from this folder: save it to another")
        for name in self.not_beside:
            if (target / name).exists():
                raise InputError(
                    f"{target}: {name} of another kind of model is in it: save it to another folder"
                )
        self._hub_mixin_config = None  # else the mixin writes its own config.json
        name = Path(save_directory).name
        if push_to_hub:
            name = repo_id = _create_repository(repo_id or name, options)
        card = {"name": name, **(options.pop("model_card_kwargs", None) or {})}
        return super().save_pretrained(
            save_directory,
            push_to_hub=push_to_hub,
            repo_id=repo_id,
            model_card_kwargs=card,
            **options,
        )

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload weights, config.json and a model card to a repository. Returns its URL.

        repo_id: `owner/name`, or a name in your own account. The model card has both.
        """
        repo_id = _create_repository(repo_id, options)
        card = {"name": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    def generate_model_card(self, *args: Any, **values: Any) -> Any:
        """Return the README.md of the folder, a `huggingface_hub.ModelCard`.

        values: `data` and `metrics` of the training, and `name` of the folder or repository.
        """
        name = values.pop("name", "FOLDER")
        values = {"data": "", "metrics": [], **values}
        return super().generate_model_card(paper=PAPER, **self.describe(name), **values)

    def describe(self, name: str) -> dict[str, Any]:
        """Return the title, summary, facts and usage of the model card.

        name: folder or repository that the usage example loads.
        """
        raise NotImplementedError

    def modules(self) -> list[torch.nn.Module]:
        """Return all modules of the model."""
        raise NotImplementedError

    def to(self, device: torch.device | str) -> Self:
        """Move the model to a device."""
        for module in self.modules():
            module.to(device)
        return self


def shareable_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config.json of a model without the text encoder's path on this machine.

    >>> shareable_config({"text": {"encoder": "qwen3", "path": "/home/me/qwen3"}, "codes": 64})
    {'text': {'encoder': 'qwen3', 'path': ''}, 'codes': 64}
    """
    text = config.get("text")
    return {**config, "text": {**text, "path": ""}} if isinstance(text, dict) else config


def _create_repository(repo_id: str, options: dict[str, Any]) -> str:
    """Create a repository on the Hub if there is none; return its `owner/name`.

    options: those of `push_to_hub`, of which `token` and `private` are used.
    """
    api = HfApi(token=options.get("token"))
    return api.create_repo(repo_id, private=options.get("private"), exist_ok=True).repo_id


def find_folder(path: str | Path, revision: str | None) -> Path:
    """Return a local folder, or the cached copy of a Hub repository, downloaded if needed.

    Raises:
        InputError: if there is no such folder, and no such repository can be read; or if a revision
            of a local folder is asked for.
    """
    if not isinstance(path, str | PathLike):
        raise InputError(f"{one_line(repr(path), 60)}: give a folder or owner/name as text")
    if _is_folder(Path(path)):
        if revision is not None:
            raise InputError(
                f"revision {revision}: {path} is a local folder, and only repositories of the "
                "Hugging Face Hub have revisions"
            )
        return Path(path).resolve()
    with hub_errors(f"{path}: no such folder, and the Hugging Face Hub does not give it"):
        try:
            return Path(snapshot_download(str(path), revision=revision, allow_patterns=FILES))
        except HFValidationError:
            raise InputError(
                f"{path}: no such folder (`dvc repro generator` makes the pipeline's own), and not "
                "the name of a repository on the Hugging Face Hub"
            ) from None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # such as a name of over 255 characters
        return False


@contextmanager
def hub_errors(failure: str, remedy: str = "") -> Iterator[None]:
    """Turn any error of a download or upload into an `InputError` of one line.

    Errors of the network have the types of whichever HTTP client huggingface_hub uses.

    Args:
        failure: What failed, put before the reason.
        remedy: What to do, put after the reason.

    Raises:
        InputError: if the block raises any error.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = one_line(str(error), 300) or type(error).__name__
        raise InputError(f"{failure}: {reason}{remedy}") from None
