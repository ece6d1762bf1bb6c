"""Our checkpoints' config.json as transformers configs, one per model type, which need none of the models."""

from collections.abc import Mapping

from transformers import PreTrainedConfig

from unmask.models import TABLE


def _config(model_type: str) -> type[PreTrainedConfig]:
    # Named after the first family of that type: LLaDAConfig, DreamConfig.
    family = next(family for family in TABLE.values() if family.model_type == model_type)
    name = f"{family.network.rpartition(':')[2]}Config"
    about = f"A config.json of type {model_type!r}; its keys are kept as they are."
    made: type[PreTrainedConfig] = type(
        name, (PreTrainedConfig,), {"model_type": model_type, "__module__": __name__, "__doc__": about}
    )
    return made


_TYPES = dict.fromkeys(family.model_type for family in TABLE.values() if family.model_type is not None)
CONFIGS: Mapping[str, type[PreTrainedConfig]] = {model_type: _config(model_type) for model_type in _TYPES}


def register() -> None:
    """Tell AutoConfig about them; again is harmless."""
    # Not at the top: importing the registry is what calls this function.
    from transformers import AutoConfig

    for model_type, config in CONFIGS.items():
        AutoConfig.register(model_type, config, exist_ok=True)
