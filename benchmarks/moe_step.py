"""Selection by gradients on a mixture of experts made from a dense model, against a loop of autograd over the samples.

The mixture has Mixtral's shape: each feed-forward block of a Llama becomes `--experts` copies with noise, and a router
with random weights that sends each token to two of them. Without noise its logits are the dense model's, because the
weights of the two experts add up to 1 (`--noise 0` shows it). For the dense model and for the mixture, and for each
selector, `--steps` steps are trained with LoRA on all linear layers and all experts. In each step a loop computes every
candidate's gradient alone, by autograd from the model's own logits, and the target's. The selector's own arithmetic
then gives the set that these gradients keep. LESS scores candidates with the model and the state of Adam that the
training ended with.

    python benchmarks/moe_step.py SMOLLM2 POOL.parquet TARGETS.parquet
    python benchmarks/moe_step.py SMOLLM2 POOL.parquet TARGETS.parquet --layers 30 --length 256 --candidates 32

The last line is JSON.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

SELECTORS = {
    "filter_weight": {"warmup_steps": 2},
    "greats": {},
    "max_grad": {"approximation": "parameters"},
}


def dense(source: str, layers: int) -> nn.Module:
    """The first layers of a Llama, with its embeddings, norm and head."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = layers
    return model


def upcycle(model: Any, experts: int, noise: float) -> nn.Module:
    """A Mixtral whose experts are copies of a Llama's feed-forward blocks with noise."""
    from transformers import MixtralConfig, MixtralForCausalLM

    own = model.config
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    same += ("num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_parameters")
    same += ("tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id")
    sizes = {name: getattr(own, name) for name in same}
    config = MixtralConfig(**sizes, num_local_experts=experts, num_experts_per_tok=2, sliding_window=None)
    torch.manual_seed(0)
    mixture = MixtralForCausalLM(config)
    weights = {name: value for name, value in model.state_dict().items() if ".mlp." not in name}
    missing, unexpected = mixture.load_state_dict(weights, strict=False)
    assert not unexpected and all(".mlp." in name for name in missing), (missing, unexpected)
    with torch.no_grad():
        for ours, theirs in zip(mixture.model.layers, model.model.layers, strict=True):
            mlp = theirs.mlp
            both = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
            for block, weight in (
                (ours.mlp.experts.gate_up_proj, both),
                (ours.mlp.experts.down_proj, mlp.down_proj.weight),
            ):
                block.copy_(weight + noise * weight.std() * torch.randn(block.shape))
            nn.init.normal_(ours.mlp.gate.weight, std=0.1)
    return mixture


def table_of(rows: list[dict[str, Any]], tokenizer: Any, length: int) -> Any:
    """Encode instructions and outputs as plain text; rows without an answer within `length` are left out."""
    from curate.lm.tokens.encode import Encoded
    from curate.lm.tokens.token_table import TokenTable

    encoded = []
    for position, row in enumerate(rows):
        prompt = "\n".join(part for part in (row["instruction"], row["input"], "") if part) + "\n"
        start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = np.array(start + tokenizer(str(row["output"]), add_special_tokens=False)["input_ids"], np.int32)
        target = np.arange(len(ids)) >= len(start)
        if len(start) + 4 <= min(length, len(ids)):
            encoded.append((position, f"s{position}", Encoded(ids[:length], target[:length], len(ids))))
    return TokenTable(encoded)


def gradients_alone(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses (n,) and gradients (n, ...) of each text alone, without padding, from the model's own logits."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    losses, rows = [], []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        n = int(mask.sum())
        logits = model(input_ids=ids[None, :n], use_cache=False).logits[0]
        loss = nn.functional.cross_entropy(logits[:-1], labels[1:n])
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        rows.append([torch.zeros_like(p) if g is None else g for p, g in zip(trained.values(), found, strict=True)])
        losses.append(loss.detach())
    return torch.stack(losses), {name: torch.stack(c) for name, c in zip(trained, zip(*rows, strict=True), strict=True)}


class Watched:
    """Compare each step of a run with the loop.

    Attributes:
        steps, equal: number of steps, and of steps whose kept set is the loop's.
        error: largest relative error of a step's measurements.
    """

    def __init__(self) -> None:
        self.steps = self.equal = 0
        self.error = 0.0

    def run(self, work: Callable[[], Any]) -> Any:
        """Do work in which every selection is compared."""
        from curate.training.gradients.engine import GradientEngine
        from curate.training.step import BatchSelection

        select = BatchSelection.select

        def compared(selection: Any, step: Any) -> Any:
            twin = loop_engine(selection.engine)
            texts = selection._collate(step.table, step.rows)
            wanted = twin.measure(texts, selection.selector.gradients, step.step, selection.timer)
            measured: list[Any] = []
            own = GradientEngine.measure

            def kept_apart(engine: Any, *args: Any, **kwargs: Any) -> Any:
                measured.append(own(engine, *args, **kwargs))
                return measured[-1]

            GradientEngine.measure = kept_apart  # type: ignore[method-assign]
            try:
                selected = select(selection, step)
            finally:
                GradientEngine.measure = own  # type: ignore[method-assign]
            batch = selection._candidate_batch(step, selected.candidates, wanted)
            kept, _ = selection._choose(batch, torch.ones(len(batch), dtype=torch.bool), step.plan)
            self.steps += 1
            self.equal += sorted(kept.tolist()) == sorted(selected.kept.tolist())
            for kind in ("values", "pairs"):
                for name, value in getattr(wanted, kind).items():
                    found = getattr(measured[0], kind)[name]
                    self.error = max(self.error, float((found - value).norm() / value.norm()))
            return selected

        BatchSelection.select = compared  # type: ignore[method-assign]
        try:
            return work()
        finally:
            BatchSelection.select = select  # type: ignore[method-assign]


def loop_engine(engine: Any) -> Any:
    """An engine with the same arithmetic whose gradients come from the loop."""
    from curate.training.gradients.engine import CandidateMeasurements, GradientEngine

    twin = GradientEngine(engine.scoring_model, engine.target, engine.adam, keep=True)
    model = engine.scoring_model.model

    def pass_over(batch: Any, request: Any, step: int = 0) -> Any:
        losses, kept = gradients_alone(model, batch)
        return CandidateMeasurements({"loss": losses}, kept=kept)

    def target_gradient(step: int) -> Any:
        return {name: g.mean(0) for name, g in gradients_alone(model, engine.target.batch(step))[1].items()}

    twin.pass_over, twin.target_gradient = pass_over, target_gradient  # type: ignore[method-assign]
    return twin


NO_LEDGER: Any = SimpleNamespace(append=lambda step, columns: None, commit=lambda step: None, rewind=lambda step: None)


def train_with(
    args: argparse.Namespace, make: Callable[[], nn.Module], selector: str, data: Any
) -> tuple[Any, Watched]:
    """Train with a selector; return the result and the comparison."""
    from curate.lm.model.load import add_lora
    from curate.training.run import TrainingJob, train
    from curate.training.step import SelectionPlan

    tokenizer, pool, target = data
    job = TrainingJob(
        label=selector,
        table=pool,
        eval_table=None,
        selector=selector,
        selector_args=SELECTORS[selector],
        plan=SelectionPlan(candidates=args.candidates, keep=args.keep, losses=False),
        reference={},
        max_length=args.length,
        max_bad=0,
        logits_budget=64 << 20,
        save_total_limit=None,
        target=target if selector != "max_grad" else None,
        reuse=True,
        arguments={
            **{"max_steps": args.steps, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "save_strategy": "no"},
            **{"per_device_train_batch_size": args.candidates, "report_to": "none", "disable_tqdm": True},
            **{"use_cpu": True, "remove_unused_columns": False, "dataloader_pin_memory": False, "logging_steps": 5},
        },
    )
    watched = Watched()

    def build() -> nn.Module:
        return add_lora(make(), r=args.rank, alpha=2 * args.rank, dropout=0.0, target_modules="all-linear")

    with tempfile.TemporaryDirectory() as folder:
        result = watched.run(lambda: train(job, build, tokenizer, NO_LEDGER, Path(folder)))
    return result, watched


def less(args: argparse.Namespace, result: Any, data: Any) -> dict[str, Any]:
    """Score candidates as LESS does, from the engine's sketches and from the loop's; compare the kept sets."""
    from curate.lm.tokens.batch import collate
    from curate.numerics.gradients import SignHash
    from curate.training.gradients.features import GradientFeatures

    _, pool, target = data
    engine, sketch = result.selection.engine, SignHash(2048, 0)
    adam, rows, aims = engine.adam(), list(range(args.candidates * 2)), list(range(min(8, len(target.table))))
    maker = GradientFeatures(engine, sketch)
    ours = maker.features(pool, rows) @ maker.features(target.table, aims, target=True).T

    def of_loop(table: Any, chosen: list[int], update: bool) -> Tensor:
        batch = collate([table[row] for row in chosen], 0)
        with engine.scoring_model.eval_mode(refresh=False):
            kept = gradients_alone(engine.scoring_model.model, batch)[1]
        out = torch.zeros(len(chosen), sketch.size)
        for name, block in kept.items():
            sketch.add(name, adam.update(name, block) if update else block, out)
        return nn.functional.normalize(out, dim=1)

    loop = of_loop(pool, rows, True) @ of_loop(target.table, aims, False).T
    best = [set(scores.mean(1).topk(args.keep * 2).indices.tolist()) for scores in (ours, loop)]
    return {"equal": best[0] == best[1], "error": float((ours - loop).norm() / loop.norm())}


def trained_share(model: nn.Module) -> dict[str, Any]:
    """How many B of the adapter are not zero: of experts, of routers, and of the rest."""
    found: dict[str, list[bool]] = {"experts": [], "routers": [], "others": []}
    for name, p in model.named_parameters():
        if "lora_B" in name:
            kind = "experts" if ".experts." in name else "routers" if ".mlp.gate." in name else "others"
            found[kind].append(bool(p.detach().abs().max() > 0))
    return {kind: f"{sum(some)}/{len(some)}" for kind, some in found.items() if some}


def main() -> None:
    """Print a line for each model and selector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a Llama, such as SmolLM2-135M-Instruct")
    parser.add_argument("pool", help="Parquet file with instruction, input and output")
    parser.add_argument("targets", help="the same, for the target")
    parser.add_argument("--layers", type=int, default=2, help="first layers that are kept")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--noise", type=float, default=0.3, help="standard deviation, relative to that of a matrix")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--length", type=int, default=48, help="tokens of a text")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--keep", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--models", nargs="+", default=["dense", "mixture"])
    parser.add_argument("--selectors", nargs="+", default=list(SELECTORS))
    args = parser.parse_args()
    from transformers import AutoTokenizer

    from curate.training.target_sampler import TargetSampler

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    pool = table_of(pq.read_table(args.pool).to_pylist()[:600], tokenizer, args.length)
    aims = table_of(pq.read_table(args.targets).to_pylist(), tokenizer, args.length)
    target = TargetSampler(aims, [range(len(aims))], size=4, seed=0, pad_token_id=int(tokenizer.pad_token_id))
    found = []
    base = dense(args.model, args.layers)
    for name in args.models:
        make = functools.partial(copy.deepcopy, base)
        if name == "mixture":
            make = functools.partial(upcycle, base, args.experts, args.noise)
        for selector in args.selectors:
            began = time.perf_counter()
            result, watched = train_with(args, make, selector, (tokenizer, pool, target))
            line: dict[str, Any] = {"model": name, "selector": selector, "steps": watched.steps, "equal": watched.equal}
            line |= {"error": watched.error, "B not zero": trained_share(result.trainer.model)}
            print(line, flush=True)
            if selector == "greats":
                line["less"] = less(args, result, (tokenizer, pool, target))
            line["seconds"] = round(time.perf_counter() - began, 1)
            found.append(line)
            print(line, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
