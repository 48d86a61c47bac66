"""The learning rate: linear warm-up, constant, quadratic decay, end."""

import dataclasses

# MLPerf v0.7's steps, at its global batch size.
REFERENCE_BATCH_SIZE = 55296
REFERENCE_WARMUP, REFERENCE_DECAY_START, REFERENCE_DECAY = 2750, 49315, 27772


@dataclasses.dataclass(frozen=True)
class LearningRateSchedule:
    """The learning rate of each step, counted from 1.

    With s the step, w `warmup_steps`, d `decay_start_step`, k `decay_steps`: base * s / w up to w;
    then base up to d; then base * ((d + k - s) / k)^power, never below `end_rate`, for k steps;
    then `end_rate`, never rising again (MLPerf training v0.7, DLRM).

    Args:
        base_rate: the learning rate between warm-up and decay.
        warmup_steps: 0 for none.
        decay_start_step: the last step at `base_rate`; None for no decay.
        decay_steps: length of the decay; 0 drops straight to `end_rate`.
        end_rate: the learning rate after the decay.
        power: the decay's exponent.
    """

    base_rate: float
    warmup_steps: int = 0
    decay_start_step: "int | None" = None
    decay_steps: int = 0
    end_rate: float = 0.0
    power: float = 2.0

    def __post_init__(self):
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

    def __call__(self, step):
        """Returns the learning rate of step 1, 2, ..."""
        if step < self.warmup_steps:
            return self.base_rate * step / self.warmup_steps
        if self.decay_start_step is None or step <= self.decay_start_step:
            return self.base_rate
        left = self.decay_start_step + self.decay_steps - step
        if left <= 0:
            return self.end_rate
        return max(self.base_rate * (left / self.decay_steps) ** self.power, self.end_rate)


def scaled_reference_steps(global_batch_size):
    """Returns MLPerf's (warm-up, decay start, decay) steps for another global batch size."""
    ratio = REFERENCE_BATCH_SIZE / global_batch_size
    steps = (REFERENCE_WARMUP, REFERENCE_DECAY_START, REFERENCE_DECAY)
    return tuple(int(count * ratio) for count in steps)
