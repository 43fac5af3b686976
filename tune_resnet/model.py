"""ResNet9: a small residual network for 32x32 colour images."""

from __future__ import annotations

from torch import Tensor, nn


def _conv_block(in_channels: int, out_channels: int, *, pool: bool = False) -> nn.Sequential:
    """3x3 convolution (no bias, since batch norm follows), batch norm, ReLU, and 2x2 max-pooling where asked.

    Pooling comes before ReLU: the maximum of ReLUs is the ReLU of the maximum, gradients included, for a quarter of the
    work.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


class ResNet9(nn.Module):
    """Images (N, 3, 32, 32), normalised, to logits (N, num_classes).

    With w = `width` (64 in the reference: 6,573,130 parameters at 10 classes) each part gives, per image:

        conv1       (w, 32, 32)
        conv2       (2w, 16, 16)   pooled
        res1        (2w, 16, 16)   two blocks, added to their input
        conv3       (4w, 8, 8)     pooled
        conv4       (8w, 4, 4)     pooled
        res2        (8w, 4, 4)     two blocks, added to their input
        classifier  (num_classes,) global max-pooling, dropout 0.2, linear; logits, no softmax
    """

    def __init__(self, num_classes: int = 10, width: int = 64) -> None:
        super().__init__()
        w = width
        self.conv1 = _conv_block(3, w)
        self.conv2 = _conv_block(w, 2 * w, pool=True)
        self.res1 = nn.Sequential(_conv_block(2 * w, 2 * w), _conv_block(2 * w, 2 * w))
        self.conv3 = _conv_block(2 * w, 4 * w, pool=True)
        self.conv4 = _conv_block(4 * w, 8 * w, pool=True)
        self.res2 = nn.Sequential(_conv_block(8 * w, 8 * w), _conv_block(8 * w, 8 * w))
        self.classifier = nn.Sequential(
            nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * w, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv2(self.conv1(images))
        features = self.res1(features) + features
        features = self.conv4(self.conv3(features))
        features = self.res2(features) + features
        logits: Tensor = self.classifier(features)
        return logits

    def initialise(self) -> None:
        """Draws every parameter anew, in place, and clears the batch-norm statistics."""
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
                layer.reset_parameters()
