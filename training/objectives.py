"""Losses beside plain cross-entropy, each as a transformers Trainer over ready tokens.

    trainer = FirstTokenTrainer(...)      # CE + weight x RankNet over the first answer token's letters (FIRST)
    trainer = GroupTrainer(...)           # softmax cross-entropy of the relevant passage over its group (pointwise)

Both take rows {row_id, tokens: [[id, ...], ...]}, pad to the right, and count in `tally` the rows and tokens that they
read; what the texts of a group share is read once (training.prefix_sharing). The losses are plain functions of logits.
Deliberately absent: cross-entropy alone, which is TRL's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from transformers import Trainer

from training.batching import AlikeBatches
from training.curves import Tally
from training.prefix_sharing import PADDING, PackedSequence, attends_fully, attention_bias, one_sequence, packed, padded
from training.ranks import count, everyone

IGNORED = -100


def first_token_ranknet(scores: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """RankNet over the identifiers' logits, pair (i, j) weighted 1 / (i + j); FIRST (2406.15657), equation 3.

    scores: (B, N), column r holding the logit of the passage at rank r + 1; present: (B, N) bool. Returns the sum over
    the pairs, meaned over the B lists.
    """
    count = scores.shape[1]
    ranks = torch.arange(1, count + 1, device=scores.device, dtype=scores.dtype)
    weights = torch.triu(1.0 / (ranks[:, None] + ranks[None, :]), diagonal=1)
    # The worse passage's logit above the better one's is what costs.
    cost = functional.softplus(scores[:, None, :] - scores[:, :, None])
    both = (present[:, :, None] & present[:, None, :]).to(scores.dtype)
    return (cost * weights * both).sum(dim=(1, 2)).mean()


def group_cross_entropy(scores: torch.Tensor, groups: Sequence[int]) -> torch.Tensor:
    """Mean over groups of -log softmax of each group's first score, the relevant passage's.

    scores: (sum(groups),), the groups behind one another.
    """
    losses = [functional.cross_entropy(part[None, :], part.new_zeros(1, dtype=torch.long))
              for part in torch.split(scores, list(groups))]  # fmt: skip
    return torch.stack(losses).mean()


class RowTrainer(Trainer):
    """A Trainer over rows of ready tokens, each of which names the row of the release that it was made from."""

    def __init__(self, *, rows: Sequence[Mapping[str, Any]], pad: int, tally: Tally, **arguments: Any) -> None:
        self.pad = pad
        self.tally = tally
        self.lengths = [sum(map(len, self.sequences(row["tokens"]))) for row in rows]
        self._sums: dict[str, list[float]] = {}
        super().__init__(train_dataset=_Rows(rows), data_collator=self._collate, **arguments)

    def _get_train_sampler(self, *_: Any, **__: Any) -> AlikeBatches:
        """Rows of like length together, so that little of a batch is padding."""
        return AlikeBatches(self.lengths, self.args.train_batch_size * count())

    def log(self, logs: dict[str, float], *rest: Any, **named: Any) -> None:
        """Adds the means of what the loss noted since the last entry."""
        mine = {name: sum(values) / len(values) for name, values in self._sums.items() if values}
        means = {name: sum(held) / len(held) for name in mine for held in [everyone(mine[name])]}
        self._sums = {}
        super().log({**logs, **means}, *rest, **named)

    def note(self, name: str, value: torch.Tensor) -> None:
        """Keep one batch's figure for the next log entry."""
        self._sums.setdefault(name, []).append(float(value))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one batch; gradient accumulation averages the batches."""
        self.tally.seen.update(row["row_id"] for row in inputs["rows"])
        loss = self.loss(model, inputs["rows"])
        return (loss, {}) if return_outputs else loss

    def loss(self, model: Any, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """The objective; subclasses say what it is."""
        raise NotImplementedError

    def sequences(self, texts: Sequence[Sequence[int]]) -> list[PackedSequence]:
        """What is read of a row: each text by itself; a subclass may pack them."""
        return [one_sequence([text]) for text in texts]

    def padded(self, sequences: Sequence[PackedSequence]) -> tuple[torch.Tensor, ...]:
        """Ids, segments and positions of some sequences, (B, longest) each, on the device that trains; counted."""
        ids, segments, positions = padded(sequences, self.pad)
        self.tally.count(segments != PADDING)
        return tuple(part.to(self.args.device) for part in (ids, segments, positions))

    def _collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"rows": rows}


class FirstTokenTrainer(RowTrainer):
    """Cross-entropy of the response + weight x RankNet at its first token."""

    def __init__(self, *, letters: Sequence[int], weight: float, **arguments: Any) -> None:
        """`letters`: the token of each identifier, in the order of the passages shown."""
        super().__init__(**arguments)
        self.letters = letters
        self.weight = weight
        # Batches are meaned here, each over its own tokens.
        self.model_accepts_loss_kwargs = False

    def loss(self, model: Any, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """One batch of lists."""
        ids, segments, _ = self.padded([text for row in rows for text in self.sequences(row["tokens"])])
        mask = (segments != PADDING).long()
        starts = torch.tensor([row["prompt"] for row in rows], device=ids.device)
        places = torch.arange(ids.shape[1], device=ids.device)
        # From the last token of the prompt on, each place but the last says a token of the response.
        saying = (places >= starts[:, None] - 1) & (places < mask.sum(dim=1, keepdim=True) - 1)
        # Only those places become logits: a vocabulary at every place of a long prompt would be most of the memory.
        kept = saying.any(dim=0).nonzero()[:, 0]
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits.float()
        labels = ids[:, kept + 1].masked_fill(~saying[:, kept], IGNORED)
        entropy = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        longest = max(len(row["order"]) for row in rows)
        wanted = torch.tensor(
            [
                [self.letters[p] for p in row["order"]] + [self.letters[0]] * (longest - len(row["order"]))
                for row in rows
            ],
            device=ids.device,
        )
        present = torch.tensor([[place < len(row["order"]) for place in range(longest)] for row in rows])
        first = logits[torch.arange(len(rows), device=ids.device), torch.searchsorted(kept, starts - 1)]
        ranknet = first_token_ranknet(first.gather(1, wanted), present.to(ids.device))
        self.note("cross_entropy", entropy.detach())
        self.note("ranknet", ranknet.detach())
        return entropy + self.weight * ranknet


class GroupTrainer(RowTrainer):
    """Softmax cross-entropy over groups of one relevant passage and some that are not, scored by yes - no."""

    def __init__(
        self, *, model: Any, rows: Sequence[Mapping[str, Any]], yes: int, no: int, limit: int, **arguments: Any
    ) -> None:
        """`limit`: tokens of a sequence; no text has more."""
        longest = max((len(text) for row in rows for text in row["tokens"]), default=0)
        self.limit = limit
        self.packs = attends_fully(model.config, longest)
        super().__init__(model=model, rows=rows, **arguments)
        self.yes = yes
        self.no = no
        self.model_accepts_loss_kwargs = False

    def sequences(self, texts: Sequence[Sequence[int]]) -> list[PackedSequence]:
        """The texts of a group, packed where the model can keep them apart."""
        return packed(texts, self.limit) if self.packs else super().sequences(texts)

    def loss(self, model: Any, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """One batch of groups."""
        sequences = [sequence for row in rows for sequence in self.sequences(row["tokens"])]
        ids, segments, positions = self.padded(sequences)
        row_of = torch.tensor([number for number, one in enumerate(sequences) for _ in one.ends], device=ids.device)
        # Only the places that answer become logits: a vocabulary at every place would be most of the work. They come
        # from the model itself, whose wrappers see to bf16 arithmetic and to gradients or weights that are shared out.
        answering = torch.tensor([end for one in sequences for end in one.ends], device=ids.device)
        kept, column = answering.unique(return_inverse=True)
        logits = model(
            input_ids=ids, attention_mask=self._mask(model, segments), position_ids=positions, use_cache=False,
            logits_to_keep=kept,
        ).logits  # fmt: skip
        scores = logits[row_of, column, self.yes].float() - logits[row_of, column, self.no].float()
        groups = [len(row["tokens"]) for row in rows]
        firsts = torch.stack([(part[1:] < part[0]).all() for part in torch.split(scores, groups)])
        self.note("accuracy", firsts.float().mean())
        return group_cross_entropy(scores, groups)

    def _mask(self, model: Any, segments: torch.Tensor) -> torch.Tensor:
        if not self.packs:
            return (segments != PADDING).long()
        # As the layers compute: another type would be cast, and kept, once a layer.
        return attention_bias(segments, torch.bfloat16 if self.args.bf16 else next(model.parameters()).dtype)


class _Rows(torch.utils.data.Dataset):
    """Rows as a torch dataset."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.rows[index]
