"""The learning rate: linear warm-up, constant, quadratic decay, end."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published learning rate and its steps at the global batch size it was published for."""

    rate: float
    batch_size: int
    warmup_steps: int
    decay_start_step: int
    decay_steps: int

    def steps(self, global_batch_size: int) -> tuple[int, int, int]:
        """Returns (warm-up, decay start, decay) steps for another global batch size."""
        ratio = self.batch_size / global_batch_size
        return (
            int(self.warmup_steps * ratio),
            int(self.decay_start_step * ratio),
            int(self.decay_steps * ratio),
        )


# MLPerf training v0.7 (NVIDIA's DLRM), NVIDIA's DeepLearningExamples (TensorFlow 2 DLRM, model
# sizes small and large) and TorchRec's DLRM example; decay 0: none.
PRESETS = {
    "mlperf": Preset(24.0, 55296, 2750, 49315, 27772),
    "deeplearningexamples_small": Preset(28.0, 32768, 6400, 64000, 80000),
    "deeplearningexamples_large": Preset(24.0, 65536, 8000, 48000, 24000),
    "torchrec": Preset(15.0, 65536, 0, 0, 0),
}


@dataclasses.dataclass(frozen=True)
class LearningRateSchedule:
    """The learning rate of each step, counted from 1.

    With s the step, w `warmup_steps`, d `decay_start_step`, k `decay_steps`: base * s / w up to w;
    then base up to d; then base * ((d + k - s) / k)^power, never below `end_rate`, for k steps;
    then `end_rate`, never rising again (MLPerf training v0.7, DLRM).

    Attributes:
        base_rate: the learning rate between warm-up and decay.
        warmup_steps: 0 for none.
        decay_start_step: the last step at `base_rate`; None for no decay.
        decay_steps: length of the decay; 0 drops straight to `end_rate`.
        end_rate: the learning rate after the decay.
        power: the decay's exponent.
    """

    base_rate: float
    warmup_steps: int = 0
    decay_start_step: int | None = None
    decay_steps: int = 0
    end_rate: float = 0.0
    power: float = 2.0

    def __post_init__(self) -> None:
        for name in ("warmup_steps", "decay_start_step", "decay_steps"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        for name in ("base_rate", "end_rate", "power"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be finite and 0 or more, got {value}")
        if self.end_rate > self.base_rate:
            raise ValueError(f"end_rate {self.end_rate} is above base_rate {self.base_rate}")
        if self.decay_start_step is not None and self.decay_start_step < self.warmup_steps:
            raise ValueError(
                f"the decay starts at step {self.decay_start_step}, before the warm-up of "
                f"{self.warmup_steps} steps ends"
            )

    def __call__(self, step: int) -> float:
        """Returns the learning rate of step 1, 2, ..."""
        if step < self.warmup_steps:
            return self.base_rate * step / self.warmup_steps
        if self.decay_start_step is None or step <= self.decay_start_step:
            return self.base_rate
        left = self.decay_start_step + self.decay_steps - step
        if left <= 0:
            return self.end_rate
        return max(self.base_rate * (left / self.decay_steps) ** self.power, self.end_rate)
