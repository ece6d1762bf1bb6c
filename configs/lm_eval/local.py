"""Data of the task files in this folder, read from the folder of the option --metadata data=FOLDER."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from unmask.errors import ConfigError


def gsm8k(data: str | None = None, **_: Any) -> dict[str, Dataset]:
    """train.jsonl and test.jsonl of the folder `data`. The harness passes the model args and its own metadata as well."""
    if data is None:
        raise ConfigError("name the folder of train.jsonl and test.jsonl: --metadata data=FOLDER")
    return {split: Dataset.from_json(str(Path(data) / f"{split}.jsonl")) for split in ("train", "test")}
