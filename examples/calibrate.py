"""Noise for the budget of a training of your own, as Opacus' make_private finds it, and what Opacus counts for it."""

from opacus.accountants import PRVAccountant

from recsys_fed import calibrate_noise_multiplier
from recsys_fed.privacy.events import PlannedRelease, events_of

EPSILON, DELTA, STEPS, SAMPLED = 3.0, 1e-6, 400, 0.05

# A release of counts with a tenth of the budget's precision, then noisy steps on samples of the users.
plan = [
    PlannedRelease(released="item counts", relative_noise=10**0.5),
    PlannedRelease(released="gradients", sampling_probability=SAMPLED, steps=STEPS),
]
noise = calibrate_noise_multiplier(plan, epsilon=EPSILON, delta=DELTA)
print(f"noise multiplier {noise:.3f} for epsilon {EPSILON} at delta {DELTA}")

accountant = PRVAccountant()
for event in events_of(plan, noise):
    for _ in range(event.steps):
        accountant.step(noise_multiplier=event.noise_multiplier, sample_rate=event.sampling_probability)
print(f"Opacus counts epsilon {accountant.get_epsilon(DELTA):.3f}")
