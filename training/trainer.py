"""A transformers Trainer on sparse distributions, and what it does around its steps."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback

from fusion_core.errors import DivergedError, TrainingError
from fusion_core.loss import SparseTarget, fusion_loss
from fusion_core.models import Model
from fusion_core.workspace import atomic_path
from training.config import LossSection
from training.corpus import Document
from training.dataset import check_packing
from training.evaluate import score
from training.progress import Standing, Tell

# A loss above this many nats a token is no longer training.
DIVERGED = 100.0


class FusionTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loss is `fusion_loss`, and which evaluates in bits per byte."""

    def __init__(
        self, *args: Any, loss: LossSection, model_of: Model, validation: list[Document], folder: Path, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        # Sums are divided by the counts of the whole step, see get_batch_samples: nothing is left to scale.
        self.model_accepts_loss_kwargs = True
        self._loss, self._model_of, self._validation, self._folder = loss, model_of, validation, folder
        self._parts: list[tuple[float, float]] = []
        # Since the run's first step, also before a resumed run was interrupted.
        self.seconds = 0.0
        # Tokens are counted where the batches are: to read a count from a GPU is to wait for its last step.
        self._spent, self._read = 0, torch.zeros((), dtype=torch.int64)
        self._waited, self._began = 0.0, time.perf_counter()
        self._over = multiprocessing.Value("b", False, lock=False)  # training: known to its workers
        # Whether this process was told to stop (SIGTERM), and whether all have agreed to, after the step that runs.
        self.stop_asked = self._agreed = False
        self._logged: int | None = None  # the step of the last row of metrics; a resumed run begins at its checkpoint

    def get_train_dataloader(self) -> Any:
        """The Trainer's, whose workers outlast a signal to all processes of the run while it trains: that is for the
        run to answer."""
        loader = super().get_train_dataloader()
        inner = getattr(loader, "base_dataloader", loader)  # that of torch, inside accelerate's
        inner.worker_init_fn = partial(_start_worker, inner.worker_init_fn, self._over)
        return loader

    @property
    def tokens(self) -> int:
        """Tokens since the run's first step, by all processes, also before a resumed run was interrupted."""
        return self._spent + int(self._read)

    def go_on_from(self, tokens: int, seconds: float) -> None:
        """Count on from what a run had spent when it was interrupted."""
        self._spent, self.seconds = tokens, seconds

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The batches of one step, with the positions that its two losses are means over: int64[2], counted over all
        batches and processes, so that neither accumulation nor the number of processes changes the losses."""
        start = time.perf_counter()
        if self._logged is None:
            self._logged = self.state.global_step
        samples = []
        for _ in range(num_batches):
            try:
                samples.append(next(epoch_iterator))
            except StopIteration:
                break
            if self.accelerator.gradient_state.end_of_dataloader and self.accelerator.even_batches:
                self._leave_out_repeats(samples[-1])
        self._waited += time.perf_counter() - start
        counts = torch.zeros(2, dtype=torch.int64, device=device)
        for batch in samples:
            counted = batch["labels"].ne(-100)
            compared = counted if self._loss.fallback != "none" else counted & batch["covered"]
            counts += torch.stack([counted.sum(), compared.sum()]).to(device)
        totals = counts
        if self.args.world_size > 1:
            # With the counts goes whether any process was told to stop: all of them are to stop after the same step.
            told = counts.new_tensor([int(self.stop_asked)])
            *counts, stop = self.accelerator.reduce(torch.cat([counts, told]), "sum")
            totals, self._agreed = torch.stack(counts), bool(stop)
        self._read = self._read.to(device) + totals[0]
        return samples, totals

    def _leave_out_repeats(self, batch: dict[str, Any]) -> None:
        """Let an epoch's last batch count only as far as there are examples: so that all processes have as many batches
        of one size, accelerate fills up with examples from the epoch's beginning."""
        if self.args.dataloader_drop_last:  # a batch that is not full is dropped, not filled up
            return
        size = self.args.train_batch_size // (self.args.world_size if self.accelerator.split_batches else 1)
        rest = len(self.train_dataset) % (size * self.args.world_size) or size * self.args.world_size
        kept = max(0, rest - self.args.process_index * size)
        if "position_ids" in batch:  # packed: examples lie behind each other in a single row
            begins = torch.nonzero(batch["position_ids"][0] == 0)[:, 0].tolist()
            batch["labels"][:, begins[kept] if kept < len(begins) else batch["labels"].shape[1] :] = -100
        else:
            batch["labels"][kept:] = -100

    @property
    def stopping(self) -> bool:
        """Whether training is to end after the step that runs: the same in all processes."""
        return self._agreed if self.args.world_size > 1 else self.stop_asked

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This batch's share of the step's loss.

        Raises:
            DivergedError: it is NaN or beyond all bounds; the batch is kept beside the checkpoints.
        """
        read = {name: inputs[name] for name in ("attention_mask", "position_ids") if name in inputs}
        output = model(input_ids=inputs["input_ids"], **read, use_cache=False)
        width, entries = output.logits.shape[-1], self._model_of.entries
        if entries is not None and entries > width:
            raise TrainingError(f"the target reads {entries:,} ids and predicts {width:,}; such a model is not trained")
        gold = inputs["labels"].flatten()
        flat = {name: inputs[name].flatten(0, 1) for name in ("target_ids", "target_probs", "covered")}
        found = fusion_loss(
            output.logits.flatten(0, 1),
            gold.clamp_min(0),
            SparseTarget(flat["target_ids"], flat["target_probs"], flat["covered"]),
            lam=self._loss.lam,
            divergence=self._loss.divergence,
            fallback=self._loss.fallback,
            mask=gold.ne(-100),
            temperature=self._loss.temperature,
            counts=None if num_items_in_batch is None else (num_items_in_batch[0], num_items_in_batch[1]),
            checked=True,  # by the collator
        )
        # Gradients are averaged over processes, and these are sums by the counts of all of them.
        total = found.total * self.args.world_size
        # Asked for at once: on a GPU each answer waits for the forward pass.
        value, clm, divergence = torch.stack([total.detach(), found.clm, found.divergence]).tolist()
        if not np.isfinite(value) or value > DIVERGED:
            path = self._folder / "diverged.npz"
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **{name: tensor.cpu().numpy() for name, tensor in inputs.items()})
            raise DivergedError(
                f"the loss is {value} at step {self.state.global_step}; the batch that caused it is in {path}. A lower "
                "learning_rate, or max_grad_norm, may help"
            )
        self._parts.append((clm, divergence))
        return (total, output) if return_outputs else total

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's figures, with the loss's two parts, tokens a second, and the share of time spent waiting for
        data."""
        if "loss" in logs and self._parts:
            steps = max(1, self.state.global_step - (self._logged or 0))
            parts = torch.tensor(np.sum(self._parts, axis=0) / steps, dtype=torch.float32, device=self.args.device)
            if self.args.world_size > 1:
                parts = self.accelerator.reduce(parts, "sum")
            seconds = max(1e-9, time.perf_counter() - self._began)
            self.seconds += seconds
            read = int(self._read)
            self._spent += read
            logs |= {
                "tokens": self._spent,
                "seconds": self.seconds,
                "clm": float(parts[0]),
                "divergence": float(parts[1]),
                "tokens_per_second": read / seconds,
                "waiting": self._waited / seconds,
            }
            self._restart()
        super().log(logs, *args, **kwargs)

    def _restart(self) -> None:
        """Count anew from here."""
        self._parts.clear()
        self._read.zero_()
        self._logged, self._waited, self._began = self.state.global_step, 0.0, time.perf_counter()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """See `Trainer.train`."""
        self._began = time.perf_counter()
        try:
            found = super().train(*args, **kwargs)
            self.seconds += time.perf_counter() - self._began  # since the last row of figures
            return found
        finally:  # a process that ends by an error waits for its workers
            self._over.value = True

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's, which asks whether the last step is done only after another one: a run that was killed between
        its last checkpoint and its end would have one step too many."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Bits per byte on the validation documents."""
        start, was = time.perf_counter(), self.model.training
        # Not unwrapped: what shards a model's weights gathers them where the model is called.
        scores = score(Model(self._model_of.name, self._model_of.tokenizer, self.model.eval()), self._validation)
        self.model.train(was)
        self._began += time.perf_counter() - start  # no time of training
        size = sum(one.bytes for one in scores)
        found = {"eval_bits_per_byte": sum(one.bits for one in scores) / max(1, size)}
        self.log(found)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found


def _start_worker(before: Callable[[int], None] | None, over: Any, number: int) -> None:
    def told(*_: Any) -> None:
        if over.value:
            os._exit(0)

    signal.signal(signal.SIGTERM, told)
    if before is not None:
        before(number)


class Before(TrainerCallback):  # type: ignore[misc]
    """What the model is asked before the first step, once it is as it is trained: a sharded one answers nothing before.

    Raises:
        TrainingError: rows are packed and the model mixes their documents.
    """

    def __init__(self, trainer: FusionTrainer, packing: bool, evaluate: bool) -> None:
        self._trainer, self._packing, self._evaluate = trainer, packing, evaluate
        self.bits: float | None = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        if self._packing and not check_packing(self._trainer.model):
            raise TrainingError(
                "the target does not keep packed documents apart by their position ids; set packing: false"
            )
        if self._evaluate:
            self.bits = self._trainer.evaluate()["eval_bits_per_byte"]


def _ends_epoch(state: Any) -> bool:
    return float(state.epoch).is_integer()


class Record(TrainerCallback):  # type: ignore[misc]
    """metrics.jsonl, progress, and a clean end on SIGTERM: one checkpoint, as an unbroken run would have it there."""

    def __init__(self, trainer: FusionTrainer, path: Path, tell: Tell, number: int) -> None:
        self._trainer, self._path, self._tell, self._number, self.stopped = trainer, path, tell, number, False

    def _stand(self, state: Any) -> None:
        if state.is_world_process_zero:
            done, total = float(state.global_step), float(state.max_steps)
            self._tell(Standing("train", self._number, self._number, done, total, "steps"))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stand(state)

        def stop(*_: Any) -> None:
            self._trainer.stop_asked = True

        self._before = signal.signal(signal.SIGTERM, stop)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stand(state)
        self.stopped = self._trainer.stopping
        if self.stopped:
            control.should_training_stop = True
            # At an epoch's end what belongs to it comes first, such as its evaluation.
            control.should_save = not _ends_epoch(state)
        # A row of metrics is a mean since the row before; none is to reach over a checkpoint.
        control.should_log |= control.should_save

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopped:
            # A checkpoint is never written over: a kill that follows would leave half of it. And an evaluation that an
            # unbroken run does not have would count for early stopping.
            control.should_save = _ends_epoch(state)
            control.should_evaluate &= _ends_epoch(state)
        control.should_log |= control.should_save

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            # The Trainer's mean over the run leaves out what came before an interruption.
            logs = {name: value for name, value in logs.items() if name not in ("train_loss", "total_flos")}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
