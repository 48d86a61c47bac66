"""The learning-rate schedule: linear warm-up, constant rate, polynomial decay, end rate."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published schedule, with its steps at the published global batch size."""

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


# Sources: MLPerf training v0.7 (NVIDIA's DLRM); NVIDIA's DeepLearningExamples (TensorFlow 2 DLRM,
# model sizes small and large); TorchRec's DLRM example, which has no warm-up and no decay.
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
    then base up to d; then base * ((d + k - s) / k)^power for k steps, but at least `end_rate`;
    then `end_rate` (MLPerf training v0.7, DLRM).

    Attributes:
        base_rate: learning rate between warm-up and decay.
        warmup_steps: length of the warm-up; 0: no warm-up.
        decay_start_step: last step at `base_rate`; None: no decay.
        decay_steps: length of the decay; 0: drop to `end_rate` at once.
        end_rate: learning rate after the decay.
        power: exponent of the decay.
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
                raise ValueError(f"{name}: expected 0 or more, found {value}")
        for name in ("base_rate", "end_rate", "power"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}: expected a finite number of 0 or more, found {value}")
        if self.end_rate > self.base_rate:
            raise ValueError(
                f"end_rate: expected at most base_rate {self.base_rate}, found {self.end_rate}"
            )
        if self.decay_start_step is not None and self.decay_start_step < self.warmup_steps:
            raise ValueError(
                f"decay_start_step: expected at least warmup_steps {self.warmup_steps}, found "
                f"{self.decay_start_step}"
            )

    def __call__(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 1."""
        if step < self.warmup_steps:
            return self.base_rate * step / self.warmup_steps
        if self.decay_start_step is None or step <= self.decay_start_step:
            return self.base_rate
        left = self.decay_start_step + self.decay_steps - step
        if left <= 0:
            return self.end_rate
        return max(self.base_rate * (left / self.decay_steps) ** self.power, self.end_rate)
