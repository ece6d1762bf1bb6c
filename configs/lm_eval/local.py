"""Data of the task files beside this one, read from a folder that the command line names: --metadata data=FOLDER."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from unmask.errors import ConfigError


def gsm8k(data: str | None = None, **_: Any) -> dict[str, Dataset]:
    """train.jsonl and test.jsonl of the folder `data`. The harness hands over the model args and its own facts as well."""
    if data is None:
        raise ConfigError("say where train.jsonl and test.jsonl lie: --metadata data=FOLDER")
    return {split: Dataset.from_json(str(Path(data) / f"{split}.jsonl")) for split in ("train", "test")}
