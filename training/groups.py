"""What becomes of groups of rollouts that are all worth the same, and so say nothing of which is better.

    batch = Groups(sampling, seed).arrange(trainer, batch, rewards, draw)

`keep` leaves them: no gradient comes from the reward, the KL term still pulls. `skip` puts groups of other prompts in
their place, drawn up to `resamples` times, and takes what is left out of the loss (dynamic sampling, DAPO, 2503.14476,
section 3.2). `replay` puts groups in their place that were drawn in earlier steps, with the probabilities they were
drawn with, so that the clipped ratio sees how old they are. All counts are logged. Groups lie whole in one process.

Deliberately absent: rewards whose scope is more than a completion, since a passage's group cannot be exchanged without
the rest of its query; and picking groups by the size of their advantages (Shuffle-R1).
"""

import base64
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from training.seams import Grpo
from training.survival import Member

Batch = dict[str, torch.Tensor]
REMEMBERED = 64
LEFT = ("prompt_ids", "prompt_mask")  # padded on this side
# Under a mask, exp(reference - policy) of a padded place must stay finite: infinity times zero is no number.
FAR = -1e4


class Groups(Member):
    """Arranges the groups of each batch of rollouts; what it remembers is the same in all processes."""

    def __init__(self, sampling: Grpo, seed: int) -> None:
        self.sampling = sampling
        self.seed = seed
        self.memory: list[Batch] = []

    def state(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        from safetensors.torch import save

        return {"memory": [base64.b64encode(save(group)).decode() for group in self.memory]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        from safetensors.torch import load

        self.memory = [load(base64.b64decode(group)) for group in state["memory"]]

    def arrange(
        self, trainer: Any, batch: Batch, rewards: torch.Tensor, draw: Callable[[int, int], tuple[Batch, torch.Tensor]]
    ) -> Batch:
        """The batch that is learned from; `rewards` (B,) are those of its rows.

        `draw(count, attempt)` gives as many groups of other prompts, and their rewards, in every process alike.
        """
        size = self.sampling.rollouts
        flat = without_variance(rewards, size)
        note(trainer, "groups_without_variance", flat)
        if self.sampling.no_variance == "skip":
            return self._skip(trainer, batch, flat, draw)
        if self.sampling.no_variance == "replay":
            return self._replay(trainer, batch, flat)
        return batch

    def _skip(self, trainer: Any, batch: Batch, flat: torch.Tensor, draw: Any) -> Batch:
        first, size, pad = flat.clone(), self.sampling.rollouts, trainer.processing_class.pad_token_id
        for attempt in range(self.sampling.resamples or 0):
            missing = int(trainer.accelerator.gather(flat.sum()).max())
            if not missing:
                break
            other, rewards = draw(missing, attempt)
            found = (~without_variance(rewards, size)).nonzero().flatten().tolist()
            places = list(zip(flat.nonzero().flatten().tolist(), found, strict=False))
            batch = put(batch, other, places, size, pad)
            flat[[ours for ours, _ in places]] = False
        note(trainer, "groups_redrawn", first & ~flat)
        note(trainer, "groups_dropped", flat)
        batch["completion_mask"] = batch["completion_mask"] * (~flat).repeat_interleave(size)[:, None]
        return counted(trainer, batch)

    def _replay(self, trainer: Any, batch: Batch, flat: torch.Tensor) -> Batch:
        from accelerate.utils import gather_object

        size, pad = self.sampling.rollouts, trainer.processing_class.pad_token_id
        batch = with_old_probabilities(trainer, batch)
        fresh = [group_of(batch, number, size) for number in (~flat).nonzero().flatten().tolist()]
        wanted = flat.nonzero().flatten().tolist()
        dice = random.Random(f"{self.seed}:{trainer.state.global_step}:{trainer.accelerator.process_index}")
        taken = dice.sample(self.memory, min(len(wanted), len(self.memory)))
        replaced = torch.zeros_like(flat)
        for place, group in zip(wanted, taken, strict=False):
            on_device = {name: values.to(flat.device) for name, values in group.items()}
            batch = put(batch, on_device, [(place, 0)], size, pad)
            replaced[place] = True
        note(trainer, "groups_replayed", replaced)
        newest = self.sampling.remembered or REMEMBERED
        self.memory = [*self.memory, *gather_object(fresh)][-newest:]
        return counted(trainer, batch)


def without_variance(rewards: torch.Tensor, size: int) -> torch.Tensor:
    """Of each group of `size` rewards, whether they are all the same: (B,) to (B / size,) bool."""
    grouped = rewards.view(-1, size)
    return (grouped == grouped[:, :1]).all(dim=1)


def note(trainer: Any, name: str, groups: torch.Tensor) -> None:
    """Log the share of all processes' groups that are marked."""
    share = trainer.accelerator.gather(groups.float()).mean().item()
    trainer._metrics["train"][name].append(share)


def counted(trainer: Any, batch: Batch) -> Batch:
    """The batch with its tokens counted anew: the mean over tokens is taken over those that are learned from."""
    return batch | {"num_items_in_batch": trainer.accelerator.gather(batch["completion_mask"].sum()).sum()}


def put(batch: Batch, other: Batch, places: Sequence[tuple[int, int]], size: int, pad: int) -> Batch:
    """The batch with some groups of `other` in the places of its own: (ours, theirs) by number."""
    if not places:
        return batch
    ours = [place * size + row for place, _ in places for row in range(size)]
    theirs = [place * size + row for _, place in places for row in range(size)]
    made = {}
    for name, values in batch.items():
        if values.ndim == 0:
            made[name] = values
            continue
        put_in = other[name]
        if values.ndim == 2:
            width = max(values.shape[1], put_in.shape[1])
            values, put_in = (_widened(name, part, width, pad) for part in (values, put_in))
        made[name] = values.clone()
        made[name][ours] = put_in[theirs]
    return made


def group_of(batch: Batch, number: int, size: int) -> Batch:
    """One group by itself, on the CPU, without the padding that others gave it."""
    rows = slice(number * size, (number + 1) * size)
    prompt = int(batch["prompt_mask"][rows].sum(dim=1).max())
    completion = int(batch["completion_mask"][rows].sum(dim=1).max())
    whole = batch["completion_mask"].shape[1]
    group = {}
    for name, values in batch.items():
        if values.ndim == 0:
            continue
        kept = values[rows]
        if name in LEFT:
            kept = kept[:, kept.shape[1] - prompt :]
        elif kept.ndim == 2 and kept.shape[1] == whole:
            kept = kept[:, :completion]
        group[name] = kept.detach().cpu().contiguous()
    return group


def with_old_probabilities(trainer: Any, batch: Batch) -> Batch:
    """The batch with the log probabilities that its rollouts were drawn with.

    TRL leaves them out where policy and writer are the same; for a replayed group they are not.
    """
    if "old_per_token_logps" in batch:
        return batch
    from trl.models.utils import disable_gradient_checkpointing

    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    with torch.no_grad(), disable_gradient_checkpointing(trainer.model, trainer.args.gradient_checkpointing_kwargs):
        old, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, batch["completion_ids"].shape[1], trainer.args.per_device_train_batch_size
        )
    return batch | {"old_per_token_logps": old}


def _widened(name: str, values: torch.Tensor, width: int, pad: int) -> torch.Tensor:
    fill = {"prompt_ids": pad, "completion_ids": pad, "ref_per_token_logps": FAR}.get(name, 0)
    more = values.new_full((values.shape[0], width - values.shape[1]), fill)
    return torch.cat([more, values] if name in LEFT else [values, more], dim=1)
