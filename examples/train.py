"""A training loop over features that gpupeak extracted: one linear layer that tells two halves of a dataset apart.

    python examples/train.py demo/preextracted_features mer2023

The labels are made up (every other sample is of class 1): put yours in their place. `gpupeak pack mer2023` beforehand
makes reading faster, and changes nothing here.
"""

from __future__ import annotations

import argparse

import torch
from torch.utils.data import DataLoader

import gpupeak


def train(root: str, dataset: str, epochs: int = 20) -> float:
    """The mean loss of the last epoch."""
    store = gpupeak.FeatureStore(root)
    labels = {name: number % 2 for number, name in enumerate(store[dataset])}
    features = store.as_torch_dataset(dataset)  # items: a name and float32 [8, 768]
    model = torch.nn.Linear(features[0][1].shape[-1], 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        total = 0.0
        for names, frames in DataLoader(features, batch_size=64, shuffle=True):  # frames: [64, 8, 768]
            target = torch.tensor([labels[name] for name in names])
            loss = torch.nn.functional.cross_entropy(model(frames.mean(dim=1)), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(names)
        print(f"epoch {epoch}: loss {total / len(features):.4f}")
    return total / len(features)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", help="the output root of gpupeak extract")
    parser.add_argument("dataset", help="such as mer2023")
    asked = parser.parse_args()
    train(asked.root, asked.dataset)
