"""Trainer callbacks: metrics, the progress bar, sample questions."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback

from sftcore.runtime.console import status
from sftcore.runtime.file_io import fsync_file
from sftcore.runtime.redaction import redact_text
from sftcore.tracking.group import METRICS


class MetricsWriter(TrainerCallback):  # type: ignore[misc]
    """Writes every log to ``metrics.jsonl`` at once: the trackers read it from there."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        numbers = {redact_text(key): value for key, value in logs.items() if isinstance(value, (int, float))}
        # JSON has neither NaN nor infinity
        metrics = {key: value if math.isfinite(value) else str(value) for key, value in numbers.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, "time": time.time(), **metrics}) + "\n")

    def sync(self) -> int:
        """Flush all lines to the disk; the size of the file in bytes, 0 if it does not exist."""
        if not self.path.exists():
            return 0
        fsync_file(self.path)
        return self.path.stat().st_size

    def truncate(self, size: int) -> None:
        """Remove the lines after the first *size* bytes: a resumed run logs them again."""
        if self.path.exists() and self.path.stat().st_size > size:
            os.truncate(self.path, size)


class ProgressBar(TrainerCallback):  # type: ignore[misc]
    """A bar with loss, tokens per second and time left; plain lines where there is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._loss: float | None = None
        self._started_at, self._initial_tokens, self._initial_step = 0.0, 0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._initial_tokens, self._initial_step = state.num_input_tokens_seen, state.global_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._started_at:
            return
        self._started_at = time.monotonic()  # not earlier: sample questions and the packing check come before
        if state.is_world_process_zero:
            end, step = state.max_steps, state.global_step
            hidden = args.disable_tqdm or None  # None: shown on a terminal only
            self._bar = tqdm(desc="training", total=end, initial=step, dynamic_ncols=True, unit="step", disable=hidden)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(self._loss_and_speed(state), refresh=False)
            self._bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        self._loss = logs.get("loss", self._loss)
        if self._bar is None:
            return
        if "eval_loss" in logs:
            text = f"evaluation loss {logs['eval_loss']:.4f}"
        elif "loss" in logs and self._bar.disable:
            per_step = (time.monotonic() - self._started_at) / max(state.global_step - self._initial_step, 1)
            text = f"{self._loss_and_speed(state)}, {per_step * (state.max_steps - state.global_step):.0f} s left"
        else:
            return
        self._bar.clear()
        status("train", f"step {state.global_step}/{state.max_steps}: {text}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the bar as it is, so that other output starts on a line of its own."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _loss_and_speed(self, state: Any) -> str:
        seconds = max(time.monotonic() - self._started_at, 1e-9)
        loss = "" if self._loss is None else f"loss {self._loss:.4f}, "
        return f"{loss}{(state.num_input_tokens_seen - self._initial_tokens) / seconds:,.0f} tokens/s"


class SampleQuestions(TrainerCallback):  # type: ignore[misc]
    """Asks the model questions before and after training; *render* makes the prompt of each.

    ``answers`` has a ``{"question", "before", "after"}`` for each.
    """

    def __init__(
        self, questions: Sequence[str], max_new_tokens: int, tokenizer: Any, render: Callable[[str], str]
    ) -> None:
        self.answers: list[dict[str, str]] = [{"question": question} for question in questions]
        self.max_new_tokens = max_new_tokens
        self.tokenizer = tokenizer
        self.render = render

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._ask_all(model, "before")
        else:  # resumed: the weights are trained already
            for answer in self.answers:
                answer.setdefault("before", "(not asked: the run was resumed)")

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._ask_all(model, "after")
        for answer in self.answers:
            status("asked", f"{answer['question']}\nbefore: {answer['before']}\nafter:  {answer['after']}")

    def _ask_all(self, model: Any, when: str) -> None:
        training = model.training
        model.eval()
        for answer in self.answers:  # on every rank: the weights may be sharded
            answer[when] = self._generate(model, answer["question"])
        model.train(training)

    def _generate(self, model: Any, question: str) -> str:
        prompt = question_ids(self.tokenizer, self.render(question)).to(model.device)
        with torch.no_grad():
            tokens = model.generate(
                input_ids=prompt["input_ids"],
                attention_mask=prompt["attention_mask"],
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        answer = self.tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        return " ".join(str(answer).split())


def question_ids(tokenizer: Any, prompt: str) -> Any:
    """The ids of the *prompt* of a question, with their attention mask, each of shape (1, length)."""
    return tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
