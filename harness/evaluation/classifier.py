"""The domain classifier: a small network trained on a data set's own labels, deterministically, once.

Its features give a FID and its class probabilities an Inception Score that say something about digits or clothes, where
ImageNet's say little. The weights for the embedded and for Debian's data are shipped. This command made them:

    python -m harness.evaluation.classifier digits fashion_mnist
"""

import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from harness.config import Crop
from harness.data.cache import Entry, cache_folder, cached, load_entry, save_entry
from harness.data.pixels import resize
from harness.data.staging import load_training_set
from harness.errors import InputError
from harness.seeding import build_generator, derive_seed
from harness.terminal import track

SIZE = 32
BATCH_SIZE = 128
STEPS = 3000
SHIPPED = Path(__file__).parent / "weights"
RECIPE = "1"  # part of the cache key: raise it when the network or its training changes


class DomainClassifier(nn.Module):
    """Three strided convolutions, global average pooling, one linear layer. Features are the pooled activations."""

    n_features = 128

    def __init__(self, in_channels: int, n_classes: int) -> None:
        super().__init__()
        self.in_channels, self.n_classes = in_channels, n_classes
        widths = [in_channels, 32, 64, self.n_features]
        self.body = nn.Sequential(
            *(
                layer
                for c_in, c_out in pairwise(widths)
                for layer in (nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nn.BatchNorm2d(c_out), nn.ReLU())
            ),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(self.n_features, n_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) in [0, 255] -> features (B, 128), logits (B, K), of its channels and at 32 px."""
        features = self.body(self._with_channels(resize(images, SIZE).to(torch.float32) / 127.5 - 1))
        return features, self.head(features)

    def activations(self, x: Tensor) -> list[Tensor]:
        """What each convolution block makes of images (B, C, H, W) in [-1, 1]: three maps, differentiable."""
        if x.shape[2:] != (SIZE, SIZE):
            x = interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
        h, maps = self._with_channels(x), []
        for layer in self.body[:-2]:
            h = layer(h)
            if isinstance(layer, nn.ReLU):
                maps.append(h)
        return maps

    def _with_channels(self, x: Tensor) -> Tensor:
        if x.shape[1] == self.in_channels:
            return x
        return x.mean(dim=1, keepdim=True).expand(-1, self.in_channels, -1, -1)


def load_classifier(
    dataset: str,
    image_size: int,
    weights: Path | None = None,
    field: str = "extractor_weights",
    crop: Crop = "squeeze",
) -> tuple[DomainClassifier, str]:
    """The classifier of a data set, in eval mode, and its weights' SHA-256.

    From the given file, else as shipped, else trained on the data set's labels and cached. `field` is the field of the
    configuration that names such a file.
    Raises: InputError if the file is no such classifier, or the data have no labels to train one.
    """
    if weights is None and (shipped := SHIPPED / f"domain-{dataset}.safetensors").is_file():
        weights = shipped
    tensors, metadata = _read_weights(weights) if weights else _train_once(dataset, image_size, field, crop)
    try:
        classifier = DomainClassifier(tensors["body.0.weight"].shape[1], tensors["head.weight"].shape[0])
        classifier.load_state_dict(tensors)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{weights} holds no domain classifier: {error}") from error
    return classifier.eval(), metadata["sha256"]


def _read_weights(path: Path) -> Entry:
    entry = load_entry(path)
    if entry is None:
        raise InputError(f"{path} is no whole safetensors file with a checksum, as the domain extractor's weights are")
    return entry


def _train_once(dataset: str, image_size: int, field: str, crop: Crop) -> Entry:
    data = load_training_set(dataset, image_size, crop=crop)
    if data.labels is None:
        raise InputError(
            f"{dataset} has no labels to train a classifier on; name one's weights: --set {field}=FILE"
            + (" (or use --extractor inception)" if field == "extractor_weights" else "")
        )
    path = cache_folder() / "weights" / f"domain-{dataset}-{data.sha256[:16]}-{RECIPE}.safetensors"
    images, labels = data.images, data.labels
    return cached(path, lambda: train_classifier(images, labels, dataset))


def train_classifier(images: Tensor, labels: Tensor, name: str) -> Entry:
    """Train on nine images of ten, measure the accuracy on the tenth. Images (N, C, S, S) uint8, labels (N,).

    Returns: the weights, and metadata with the held-out accuracy. Equal on machines with equal arithmetic.
    """
    images, held_out = resize(images, SIZE), torch.arange(len(images)) % 10 == 9
    train_images, train_labels = images[~held_out], labels[~held_out]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "classifier"))
        classifier = DomainClassifier(images.shape[1], int(labels.max()) + 1)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=STEPS)
    generator = build_generator(0, "classifier", 1)
    for _ in track(range(STEPS), f"training the domain classifier of {name}"):
        rows = torch.randint(len(train_images), (BATCH_SIZE,), generator=generator)
        loss = cross_entropy(classifier(train_images[rows])[1], train_labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    classifier.eval()
    with torch.no_grad():
        predicted = torch.cat([classifier(part)[1].argmax(1) for part in images[held_out].split(1024)])
    accuracy = (predicted == labels[held_out]).float().mean().item()
    return dict(classifier.state_dict()), {"dataset": name, "recipe": RECIPE, "held_out_accuracy": f"{accuracy:.4f}"}


if __name__ == "__main__":
    for dataset_name in sys.argv[1:]:
        training_set = load_training_set(dataset_name, SIZE)
        assert training_set.labels is not None
        entry = train_classifier(training_set.images, training_set.labels, dataset_name)
        save_entry(SHIPPED / f"domain-{dataset_name}.safetensors", *entry)
        print(dataset_name, entry[1])
