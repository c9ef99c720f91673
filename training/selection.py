"""Which step of a stage is the best: every so many steps the student ranks the dev rows, and the best weights are kept.

    lists, left_out = dev_lists(rows, how, recipe, ranker, seed)
    selection = Selection(job, how, ranker, lists, curve, weights)
    trainer.add_callback(selection.callback())
    trainer.train()
    model.load_state_dict(selection.kept(), strict=False)   # of selection.step, whose figure is selection.best

A row's list is ranked as `training.rerank` would, by the recipe's contract and decoding, without fusion; the figure is
the mean NDCG@10 against its relevant positions, in which a malformed answer counts nothing: it leaves the order shown,
so that a student that says nothing of use would else be as good as chance, and be chosen for it. The start (step 0) and
the last step are ranked too, and equal figures leave the earlier step chosen. Of several processes the first one ranks,
also where none holds all weights: they are handed together for it. Deliberately absent: the loss on dev rows, which
falls while rankings get worse.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ranking.decoding.calls import Reply
from ranking.decoding.desk import Ticket, decode_all
from ranking.rewards import ndcg
from training.checkpoints import TrainingDataError
from training.curves import Curve
from training.jobs import LeftOut, TrainJob
from training.rankers import Ranker, call_prompt, misfit
from training.ranks import best_device, first, same
from training.recipes import Recipe
from training.seams import Selecting
from training.survival import Member

CUT = 10


@dataclass(frozen=True)
class DevList:
    """A dev row's list, as its positions are judged."""

    query: str
    passages: tuple[str, ...]
    relevant: frozenset[int]


def dev_lists(
    rows: Sequence[Mapping[str, Any]], how: Selecting, recipe: Recipe, ranker: Ranker, seed: int
) -> tuple[list[DevList], list[LeftOut]]:
    """The lists that a student is measured on, and the rows that make none; `dev_rows` of them, by the seed.

    Raises TrainingDataError where there is none.
    """
    lists, left_out = [], []
    chosen = list(rows)
    if how.dev_rows is not None and len(chosen) > how.dev_rows:
        chosen = random.Random(seed).sample(chosen, how.dev_rows)
    for row in chosen:
        relevant = frozenset(position for position in row["relevant"] if 0 <= position < len(row["passages"]))
        reason = "no relevant passage in the list" if not relevant else None
        reason = reason or misfit(recipe, ranker, row["query"], row["passages"])
        if reason is None:
            lists.append(DevList(row["query"], tuple(row["passages"]), relevant))
        else:
            left_out.append(LeftOut(row_id=row["row_id"], reason=reason))
    if not lists:
        why = "; ".join(sorted({item.reason for item in left_out})) or "the release has no row with split 'dev'"
        raise TrainingDataError(
            f"evaluate_every is {how.evaluate_every} and there is nothing to evaluate on: {why}. Set evaluate_every to "
            f"null in the recipe or the profile, or materialize training_set with dev rows."
        )
    return lists, left_out


def dev_ndcg(recipe: Recipe, ranker: Ranker, lists: Sequence[DevList]) -> float:
    """Mean NDCG@10 of the ranker's orders of some lists, each times the share of its answers that were well-formed.

    What the decoding does not reach keeps its place.
    """
    asked, malformed = Counter[int](), Counter[int]()

    def reply_to(tickets: list[Ticket]) -> list[Reply]:
        prompts = []
        for ticket in tickets:
            shown = lists[ticket.query]
            passages = [shown.passages[position] for position in ticket.call.positions]
            prompts.append(call_prompt(recipe, ranker.tokenizer, shown.query, passages))
        answers = dict(ranker.answer(prompts, [ticket.call for ticket in tickets]))
        asked.update(ticket.query for ticket in tickets)
        malformed.update(ticket.query for n, ticket in enumerate(tickets) if answers[n].reply.fault is not None)
        return [answers[number].reply for number in range(len(tickets))]

    counts = [min(recipe.decoding.top, len(one.passages)) for one in lists]
    ranked = decode_all(counts, recipe.decoding.decoder(), reply_to)
    values = []
    for number, (one, made) in enumerate(zip(lists, ranked, strict=True)):
        order = np.array([[*made.order, *range(len(made.order), len(one.passages))]])
        relevant = np.array([[position in one.relevant for position in range(len(one.passages))]])
        well_formed = 1 - malformed[number] / max(1, asked[number])
        values.append(well_formed * float(ndcg(order, relevant, CUT)[0]))
    return float(np.mean(values))


class Selection(Member):
    """Ranks the dev lists as a stage goes, keeps the best weights on disk, and stops it when nothing gets better."""

    def __init__(
        self,
        job: TrainJob,
        how: Selecting,
        ranker: Ranker | None,
        lists: Sequence[DevList],
        curve: Curve,
        weights: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`ranker` asks a twin of the student, which is given `weights()`, all of them by name, before it ranks.

        All processes ask for the weights; the first one alone needs a ranker and lists.
        """
        self.job = job
        self.how = how
        self.ranker = ranker
        self.lists = lists
        self.curve = curve
        self.weights = weights
        self.step: int | None = None
        self.best = -1.0
        self.since = 0
        self._needed: int | None = None

    def state(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return {"step": self.step, "best": self.best, "since": self.since}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.step, self.best, self.since = state["step"], state["best"], state["since"]
        self._needed = self.step

    def tidy(self) -> None:
        """The whole checkpoint names the present best: older ones may go."""
        self._needed = self.step
        self._remove_others()

    def evaluate(self, step: int, total: int) -> bool:
        """Rank the lists with the weights of a step, and keep those if they are the best; whether to stop here.

        Weights that are no numbers rank nothing: the stage is about to stop for them (training.faults).
        """
        begun = time.perf_counter()
        weights = self.weights()
        value = same(self._figure(weights) if first() else None)
        if value is None:
            return False
        if value > self.best:
            self.step, self.best, self.since = step, value, 0
            if first():
                self._save(weights, step)
        else:
            self.since += 1
        seconds = time.perf_counter() - begun
        self.curve.aside(step, total, {"dev_ndcg": value, "dev_seconds": round(seconds, 3)}, seconds)
        return self.how.patience is not None and self.since >= self.how.patience

    def kept(self) -> dict[str, Any]:
        """The best step's weights, by name; without those that do not learn."""
        from safetensors.torch import load_file

        assert self.step is not None  # step 0 was evaluated
        return dict(load_file(self._file(self.step)))

    def callback(self) -> Any:
        """A transformers TrainerCallback that evaluates; add it before those that stop at `should_training_stop`."""
        from transformers import TrainerCallback

        selection = self

        class Selector(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step == 0:
                    selection.evaluate(0, state.max_steps)

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                step, every = state.global_step, selection.how.evaluate_every
                assert every is not None  # or there is no selection
                if step % every == 0 or step == state.max_steps:
                    stop = selection.evaluate(step, state.max_steps)
                    control.should_training_stop = control.should_training_stop or stop

        return Selector()

    def _file(self, step: int) -> Path:
        return self.job.resume / f"best-{step}.safetensors"

    def _figure(self, weights: Mapping[str, Any]) -> float | None:
        """The figure of some weights; None where they are no numbers."""
        import torch

        from training.student import in_one_piece

        assert self.ranker is not None  # this is the first process
        twin = self.ranker.model
        home = twin.device
        with in_one_piece(), torch.random.fork_rng():
            if not all(bool(weights[name].isfinite().all()) for name in _learning(twin)):
                return None
            twin.load_state_dict(weights)
            try:
                twin.to(best_device())
                return dev_ndcg(self.job.recipe, self.ranker, self.lists)
            finally:
                twin.to(home)

    def _save(self, weights: Mapping[str, Any], step: int) -> None:
        from safetensors.torch import save_file

        assert self.ranker is not None
        part = self._file(step).with_suffix(".part")
        learning = {name: weights[name].detach().cpu().contiguous() for name in _learning(self.ranker.model)}
        save_file(learning, part)
        part.replace(self._file(step))
        self._remove_others()

    def _remove_others(self) -> None:
        """Keep the best, and the one that the last whole checkpoint would go on from."""
        wanted = {self._file(step) for step in (self.step, self._needed) if step is not None}
        for old in self.job.resume.glob("best-*.safetensors"):
            if old not in wanted:
                old.unlink()


def _learning(model: Any) -> list[str]:
    """Names of the weights that learn; of tied ones the first."""
    return [name for name, weight in model.named_parameters() if weight.requires_grad]
