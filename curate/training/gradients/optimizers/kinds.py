"""Rules by optimizer: by its class, by the states of a checkpoint, or by its name in the Trainer's arguments."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from ....errors import ConfigError, ModelError, did_you_mean
from .frozen import NO_FROZEN
from .more_rules import (
    Adafactor,
    AdEMAMix,
    DebiasedAdam,
    QuantizedRmsProp,
    ScheduleFree,
    ScheduleFreeRAdam,
    ScheduleFreeSgd,
    TransformersAdafactor,
    unwrapped,
)
from .muon import Muon
from .rules import Adadelta, Adagrad, Adamax, AdamRule, NAdam, RAdam, RmsProp, Rule, Sgd

TORCH: dict[str, Rule] = {
    "AdamW": AdamRule(),
    "Adam": AdamRule(coupled=True),
    "NAdam": NAdam(coupled=True),
    "RAdam": RAdam(coupled=True),
    "Adamax": Adamax(coupled=True),
    "SGD": Sgd(),
    "RMSprop": RmsProp(),
    "Adagrad": Adagrad(),
    "Adadelta": Adadelta(),
    "Adafactor": Adafactor(),
    "Muon": Muon(),
}
"""Class of torch.optim -> its rule."""

OTHERS: dict[tuple[str, str], Rule] = {
    ("transformers", "Adafactor"): TransformersAdafactor(),
    ("optimi", "Adam"): DebiasedAdam(),
    ("optimi", "AdamW"): DebiasedAdam(),
    ("optimi", "StableAdamW"): DebiasedAdam(stable=True),
    ("schedulefree", "AdamWScheduleFree"): ScheduleFree(),
    ("schedulefree", "RAdamScheduleFree"): ScheduleFreeRAdam(),
    ("schedulefree", "SGDScheduleFree"): ScheduleFreeSgd(),
}
"""Package and class -> rule."""

BITSANDBYTES: dict[str, Rule] = {
    "adam": AdamRule(),
    "ademamix": AdEMAMix(),
    "rmsprop": QuantizedRmsProp(),
}
"""bitsandbytes' name of an algorithm -> rule; the same in 8 bits, in 32 bits and paged."""

USE = (
    "Use AdamW (--optim adamw_torch), or a selector that does not measure with the optimizer's state: greats, or "
    "max_grad"
)
SIGN = "its step is a sign, which does not change with the gradient"
LOW_RANK = "it keeps its state for projections of the gradient, so it has no metric of the parameters"
FUSED = "it updates the weights in the backward pass, so there is no step before which to select"
REFUSED: dict[str, str] = {
    "Lion": SIGN,
    "Lion8bit": SIGN,
    "Lion32bit": SIGN,
    "PagedLion": SIGN,
    "PagedLion8bit": SIGN,
    "PagedLion32bit": SIGN,
    "Rprop": SIGN,
    "LBFGS": "its step is a line search over several gradients",
    "GaLoreAdamW": LOW_RANK,
    "GaLoreAdamW8bit": LOW_RANK,
    "GaLoreAdafactor": LOW_RANK,
    "APOLLOAdamW": LOW_RANK,
    "Lomo": FUSED,
    "AdaLomo": FUSED,
    "GrokAdamW": "it filters gradients by a signal that is known only after the step",
}
"""Class -> why it has no metric."""


def qualified(kind: type) -> str:
    """Return the name of a class with its package, such as bitsandbytes.optim.AdamW8bit."""
    module = kind.__module__
    package = module.partition(".")[0]
    public = {"torch": "torch.optim", "bitsandbytes": "bitsandbytes.optim"}.get(package, module)
    return f"{public}.{kind.__qualname__}"


def rule_of(optimizer: Any) -> Rule | ModelError:
    """Return the rule of an optimizer, or the error that says why there is none."""
    if isinstance(optimizer, Mapping):
        return _rule_of_states(optimizer)
    for kind in type(optimizer).__mro__:
        package = kind.__module__.partition(".")[0]
        if kind.__module__.startswith("torch.optim") and kind.__name__ in TORCH:
            return _checked(TORCH[kind.__name__], optimizer)
        if (package, kind.__name__) in OTHERS:
            return OTHERS[package, kind.__name__]
        if package == "bitsandbytes" and getattr(optimizer, "optimizer_name", None) in BITSANDBYTES:
            return BITSANDBYTES[optimizer.optimizer_name]
    return refusal(type(optimizer))


def refusal(kind: type) -> ModelError:
    """Return the error for an optimizer without a rule."""
    reasons = [REFUSED[base.__name__] for base in kind.__mro__ if base.__name__ in REFUSED]
    reason = reasons[0] if reasons else "curate does not know how its next step depends on the gradient"
    return ModelError(f"{qualified(kind)} has no metric for gradients: {reason}. {USE}.")


def _checked(rule: Rule, optimizer: Any) -> Rule | ModelError:
    """Return the rule, or an error for a setting that it does not describe."""
    for group in optimizer.param_groups:
        if group.get("centered"):
            return ModelError(
                "torch.optim.RMSprop with centered=True has no metric for gradients: its denominator subtracts the "
                f"mean gradient. Set centered=False. {USE}."
            )
    return rule


def _rule_of_states(saved: Mapping[str, Any]) -> Rule | ModelError:
    """Return the rule of an optimizer that is known only by its state_dict: by the names of settings and states."""
    groups, states = saved["param_groups"], saved["state"]
    settings = set(groups[0])
    names = {name for state in states.values() for name in unwrapped(state)}
    if "state1" in names:
        if "state2" not in names:
            return _unclear("bitsandbytes, of Lion, RMSprop, Adagrad or SGD")
        return BITSANDBYTES["ademamix" if len(groups[0]["betas"]) > 2 else "adam"]
    for needed, rule in SIGNATURES:
        if needed <= settings | names:
            return rule
    return _unclear("none that curate knows")


def _unclear(what: str) -> ModelError:
    return ModelError(f"The states of the checkpoint's optimizer are of {what}. Train the warm-up run with AdamW.")


SIGNATURES: list[tuple[set[str], Rule]] = [
    ({"lr_max", "weight_lr_power", "silent_sgd_phase", "exp_avg_sq"}, ScheduleFreeRAdam()),
    ({"lr_max", "weight_lr_power", "exp_avg_sq"}, ScheduleFree()),
    ({"lr_max", "weight_lr_power", "z"}, ScheduleFreeSgd()),
    ({"decouple_lr", "max_lr", "eps_sq", "exp_avg_sq"}, DebiasedAdam(stable=True)),
    ({"decouple_lr", "max_lr", "exp_avg", "exp_avg_sq"}, DebiasedAdam()),
    ({"momentum_decay", "mu_product"}, NAdam(coupled=True)),
    ({"exp_inf", "exp_avg"}, Adamax(coupled=True)),
    ({"clip_threshold", "decay_rate"}, TransformersAdafactor()),
    ({"beta2_decay"}, Adafactor()),
    ({"ns_steps", "momentum_buffer"}, Muon()),
    ({"rho", "acc_delta"}, Adadelta()),
    ({"lr_decay", "sum"}, Adagrad()),
    ({"alpha", "square_avg"}, RmsProp()),
    ({"amsgrad", "exp_avg", "exp_avg_sq", "decoupled_weight_decay"}, AdamRule(coupled=True)),
    ({"amsgrad", "exp_avg", "exp_avg_sq"}, AdamRule()),
    ({"exp_avg", "exp_avg_sq", "betas", "eps", "decoupled_weight_decay", "capturable"}, RAdam(coupled=True)),
    ({"exp_avg", "exp_avg_sq", "betas", "eps"}, AdamRule()),
    ({"dampening", "nesterov"}, Sgd()),
]
"""Names of settings and states, the most special ones first -> rule."""

TRAINER: dict[str, str] = {
    **dict.fromkeys(("lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit"), SIGN),
    **dict.fromkeys(("galore_adamw", "galore_adamw_8bit", "galore_adafactor", "apollo_adamw"), LOW_RANK),
    **dict.fromkeys(("galore_adamw_layerwise", "galore_adamw_8bit_layerwise"), LOW_RANK),
    **dict.fromkeys(("galore_adafactor_layerwise", "apollo_adamw_layerwise"), LOW_RANK),
    **dict.fromkeys(("lomo", "adalomo"), FUSED),
    "grokadamw": REFUSED["GrokAdamW"],
    "adamw_anyprecision": "its package torchdistx is no longer published",
    "adamw_torch_4bit": "its states are quantized in a way that curate does not read",
    "adamw_torch_8bit": "its states are quantized in a way that curate does not read",
}
"""Name of an optimizer in transformers.TrainingArguments(optim=...) -> why it has no metric."""

PACKAGES: dict[str, str] = {
    **dict.fromkeys(("adamw_torch_fused", "adamw_torch", "muon", "adafactor", "sgd", "adagrad", "rmsprop"), "torch"),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit"), "bitsandbytes"),
    **dict.fromkeys(("ademamix", "ademamix_8bit", "paged_ademamix_8bit", "paged_ademamix_32bit"), "bitsandbytes"),
    **dict.fromkeys(("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"), "bitsandbytes"),
    **dict.fromkeys(("lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit"), "bitsandbytes"),
    "stable_adamw": "optimi",
}
"""Name of an optimizer with which `curate train` trains -> module that it needs."""

DISTRIBUTIONS = {"optimi": "torch-optimi"}
"""Module -> name of its distribution, if that is another."""


def require_metric(name: str, metric: str = "adam") -> None:
    """Raise `ModelError` if the optimizer of this name in the Trainer's arguments has no such metric for gradients."""
    if name in TRAINER:
        raise ModelError(f"The optimizer {name} has no metric for gradients: {TRAINER[name]}. {USE}.")
    if metric.startswith("opus") and "adamw" not in name and name != "muon":
        raise ModelError(NO_FROZEN)


def require_trainable(name: str) -> None:
    """Raise `ConfigError` unless `curate train` can train with the optimizer of this name."""
    if name.startswith("schedule_free"):
        raise ConfigError(
            f"--optim {name} averages weights, but the Trainer saves those that are not averaged. Use it in a loop of "
            "your own, with BatchSelector."
        )
    if name not in PACKAGES:
        reason = f": {TRAINER[name]}" if name in TRAINER else ""
        hint = "" if name in TRAINER else did_you_mean(name, PACKAGES)
        raise ConfigError(
            f"Training with --optim {name} is not possible{reason}.{hint} It is with {', '.join(PACKAGES)}."
        )
    module = PACKAGES[name]
    if importlib.util.find_spec(module) is None:
        package = DISTRIBUTIONS.get(module, module)
        raise ConfigError(f"--optim {name} needs the package {package}: pip install {package}.")
