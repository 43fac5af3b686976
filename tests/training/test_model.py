"""ResNet9's layers, as the reference has them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tune_resnet.training.model import ResNet9


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_reference_has_6573130_parameters() -> None:
    assert parameters(ResNet9()) == 6_573_130


def test_each_part_gives_the_documented_shape() -> None:
    network = ResNet9().eval()
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> None:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            shapes[name] = tuple(output.shape)

        network.get_submodule(name).register_forward_hook(hook)

    for name in ("conv1", "conv2", "res1", "conv3", "conv4", "res2", "classifier"):
        note(name)
    with torch.inference_mode():
        network(torch.zeros(2, 3, 32, 32))
    assert shapes == {
        "conv1": (2, 64, 32, 32),
        "conv2": (2, 128, 16, 16),
        "res1": (2, 128, 16, 16),
        "conv3": (2, 256, 8, 8),
        "conv4": (2, 512, 4, 4),
        "res2": (2, 512, 4, 4),
        "classifier": (2, 10),
    }
    assert list(shapes) == [name for name, _ in network.named_children()]


def test_pooling_before_relu_gives_the_same_outputs_and_gradients() -> None:
    torch.manual_seed(0)
    network = ResNet9(10, 4)
    block = list(network.conv2)
    assert [type(layer) for layer in block[2:]] == [nn.MaxPool2d, nn.ReLU]
    images = torch.randn(8, 4, 16, 16)
    results = []
    for layers in (block, [block[0], block[1], block[3], block[2]]):
        chosen = images.clone().requires_grad_()
        output = nn.Sequential(*layers)(chosen)
        (output**2).sum().backward()
        assert chosen.grad is not None
        results.append((output, chosen.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize(("classes", "width"), [(2, 1), (100, 8)])
def test_width_and_classes_scale_the_network(classes: int, width: int) -> None:
    assert ResNet9(classes, width).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, classes)


@pytest.mark.parametrize("size", [8, 32, 40, 65, 224])
def test_any_size_of_image_will_do(size: int) -> None:
    assert ResNet9(5, 2).eval()(torch.zeros(1, 3, size, size)).shape == (1, 5)


def test_it_gives_logits_not_probabilities() -> None:
    torch.manual_seed(0)
    logits = ResNet9(10, 8).eval()(torch.randn(4, 3, 32, 32))
    assert (logits < 0).any()
    assert not torch.allclose(logits.sum(1), torch.ones(4))


def test_convolutions_have_no_bias_and_dropout_is_a_fifth() -> None:
    network = ResNet9(10, 8)
    assert all(layer.bias is None for layer in network.modules() if isinstance(layer, nn.Conv2d))
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)] == [0.2]
