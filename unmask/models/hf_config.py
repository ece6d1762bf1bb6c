"""Our checkpoints' config.json as transformers configs, which need none of the models."""

from transformers import PreTrainedConfig


class LLaDAConfig(PreTrainedConfig):  # type: ignore[misc]
    """A LLaDA config.json; its keys are kept as they are."""

    model_type = "llada"


class DreamConfig(PreTrainedConfig):  # type: ignore[misc]
    """A Dream config.json; its keys are kept as they are."""

    model_type = "Dream"


def register() -> None:
    """Tell AutoConfig about them; again is harmless."""
    # Not at the top: importing the registry is what calls this function.
    from transformers import AutoConfig

    for config in (LLaDAConfig, DreamConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
