"""Notify people of failed runs, by the automations in deploy/automations.yaml (`make deploy`).

GEAR_NOTIFY_URL is the webhook to notify, such as one of Slack, Mattermost or Teams. Prefect stores
it in the block `gear-notify`, as a secret: whoever has the address can post to the channel.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from gear.core.errors import InputError
from gear.core.yaml_text import read_yaml

FILE = Path(__file__).parents[1] / "deploy/automations.yaml"
SETTING = "GEAR_NOTIFY_URL"
BLOCK = "gear-notify"


def apply_automations() -> list[str]:
    """Save the webhook and create or update the automations of the file; return a line for each.

    Raises:
        InputError: if the URL or the file is not valid.
    """
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore

    url = os.environ.get(SETTING, "")
    if not url:
        if _is_block_saved():
            return [f"notifications as before (set {SETTING} to change the webhook)"]
        return [f"no notifications: set {SETTING} to a webhook and deploy again"]
    if urlparse(url).scheme not in ("http", "https") or not urlparse(url).hostname:
        raise InputError(f"{SETTING}: not the http(s) address of a webhook")
    block = _save_block(url)
    lines = []
    with get_client(sync_client=True) as client:
        for values in read_yaml(FILE, "restore it from git")["automations"]:
            for action in values["actions"]:
                action["block_document_id"] = block
            try:
                automation = AutomationCore.model_validate(values)
            except ValueError as error:
                raise InputError(f"{FILE}: {values.get('name')}: {error}") from None
            known = client.read_automations_by_name(automation.name)
            if known:
                client.update_automation(known[0].id, automation)
            else:
                client.create_automation(automation)
            lines.append(f"automation {automation.name!r} tells {urlparse(url).hostname}")
    return lines


def _is_block_saved() -> bool:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_block_document_by_name(
                BLOCK, CustomWebhookNotificationBlock.get_block_type_slug()
            )
        except ObjectNotFound:
            return False
    return True


def _save_block(url: str) -> Any:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    block = CustomWebhookNotificationBlock(
        name="GEAR",
        url="{{address}}",  # filled in from the secrets, which the API does not show
        secrets={"address": url},
        json_data={"text": "{{subject}}\n{{body}}"},
    )
    return str(block.save(BLOCK, overwrite=True))
