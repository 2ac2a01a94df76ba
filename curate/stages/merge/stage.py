"""`curate merge`: write a model with its adapter merged into its weights, as safetensors that any library loads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ...config import EXTERNAL, POWER, NamedConfig
from ...errors import ModelError
from ...store import Draft
from ..stage import Stage

if TYPE_CHECKING:
    from ..inputs import Inputs

EXAMPLES = """
curate merge --model run --name merged
curate merge --model path/to/adapter --name merged --dtype float32
curate evaluate --model merged --pool heldout
"""


class MergeConfig(NamedConfig):
    """Configuration of `curate merge`."""

    model: Annotated[str, EXTERNAL] = Field(
        description="Model with an adapter: the name of a run in the store, or a folder."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Data type of the weights; auto keeps that of the base model."
    )
    trust_remote_code: Annotated[bool, POWER] = Field(False, description="Run Python code that comes with the model.")

    def obvious_name(self) -> str:
        """Return the name of the model with `-merged` behind it."""
        return f"{self.model.rstrip('/').rpartition('/')[2]}-merged"


def more_inputs(config: MergeConfig, inputs: Inputs) -> dict[str, str]:
    """Return the day that the chat template of the run writes, so that the merged model has the same."""
    from ..tokens.frozen_date import DATE, of_inputs

    date = of_inputs(inputs)
    return {DATE: date} if date is not None else {}


def run(config: MergeConfig, inputs: Inputs, draft: Draft) -> None:
    """Load the model, merge its adapter, and save it with its tokenizer."""
    import torch

    from ...lm.model.adapters import merge_adapter
    from ...lm.model.config_checks import ModelOptions
    from ...lm.model.load import load_model, load_tokenizer
    from ...lm.model.weight_files import require_finite
    from ..inputs import is_adapter

    location = inputs.locations["model"]
    if not is_adapter(location):
        raise ModelError(f"{config.model} has no adapter, so there is nothing to merge: it loads as it is.")
    options = ModelOptions(location, dtype=config.dtype, trust_remote_code=config.trust_remote_code)
    tokenizer = load_tokenizer(options)
    model = merge_adapter(load_model(options), location)
    require_finite(model, location)
    draft.clear_files()
    model.save_pretrained(draft.files)  # type: ignore[operator]
    tokenizer.save_pretrained(draft.files)
    types = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()})
    rounded = torch.float32 not in {parameter.dtype for parameter in model.parameters()}
    draft.summary = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": ", ".join(types) + (" (the sum is rounded to it; --dtype float32 is exact)" if rounded else ""),
        "model": str(draft.files),
    }


STAGE = Stage(MergeConfig, run, EXAMPLES, more_inputs=more_inputs)
