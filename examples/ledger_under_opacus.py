"""The ledger under your own Opacus training: each step is charged before its noise is drawn, until it is refused."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from recsys_fed import Guarantee, Ledger
from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.errors import BudgetExceededError
from recsys_fed.ledger.records import export_ledger
from recsys_fed.ledger.verification import verification_record
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.integer_mechanism import ROUNDING_SLACK, IntegerMechanism, add_noise
from recsys_fed.privacy.noise import SystemNoise
from recsys_fed.signing import SigningKey

NOISE, SAMPLED = 2.0, 0.25  # noise in units of the clip norm, which is 1; share of the people in a step


def guard(optimizer, ledger):
    """Charge every step of an Opacus optimizer, then add exact noise in the place of its floating-point noise."""
    sizes = [p.numel() for p in optimizer.params]
    mechanism = IntegerMechanism(noise_multiplier=NOISE, l2_clip_norm=1.0, grid_step=2.0**-14, entries=sum(sizes))

    def add_paid_noise():
        step = ledger.releases()
        event = ReleaseEvent(
            noise_multiplier=NOISE, l2_clip_norm=1.0, sampling_probability=SAMPLED, slack=ROUNDING_SLACK,
            released="gradient", round=step, stage="step", trainer="opacus", clipping="flat",
            noise_source=SystemNoise.name,
        )  # fmt: skip
        ledger.charge(event, run="cnn", request=f"{step:064x}", code_version="mine 1.0", keep=False)
        clipped = torch.cat([p.summed_grad.flatten() for p in optimizer.params]).double().numpy()
        noisy = torch.from_numpy(mechanism.grid_step * add_noise(clipped, mechanism=mechanism, noise=SystemNoise()))
        for p, part in zip(optimizer.params, noisy.split(sizes), strict=True):
            p.grad = part.reshape(p.shape).to(p.dtype)

    optimizer.add_noise = add_paid_noise


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        key, exported, epsilon = SigningKey.generate(), Path(folder) / "ledger.jsonl", 2.0
        promise = {"guarantee": Guarantee(epsilon=epsilon), "declared_users": 400}
        terms = LedgerTerms(silo="mine", public_key=key.public_key, **promise)
        ledger = Ledger.create(f"{folder}/ledger.sqlite", key=key, terms=terms)
        images, sides = torch.randn(400, 1, 8, 8), torch.arange(400) % 2  # one image a person: the unit is a user
        images[sides == 1, :, :, :4] += 1.0
        cnn = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        loader = DataLoader(TensorDataset(images, sides), batch_size=round(400 * SAMPLED))
        cnn, optimizer, loader = PrivacyEngine().make_private(
            module=cnn, optimizer=torch.optim.SGD(cnn.parameters(), lr=0.5), data_loader=loader,
            noise_multiplier=NOISE, max_grad_norm=1.0,
        )  # fmt: skip
        guard(optimizer, ledger)
        try:
            for _ in range(1_000):
                for batch, wanted in loader:
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(cnn(batch), wanted).backward()
                    optimizer.step()
        except BudgetExceededError as refused:
            print(f"refused after {ledger.releases()} steps: {refused}")
        print(f"accuracy {(cnn(images).argmax(1) == sides).double().mean():.2f}")
        export_ledger(ledger, exported)
        found = verification_record(str(exported), public_key=key.public_key)
        print("verified offline:", found["holds"], f"epsilon {found['spending']['epsilon']:.3f} of {epsilon}")
