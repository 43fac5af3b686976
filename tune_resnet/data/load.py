"""The data set that a spec names."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path

from tune_resnet.config.sections import DataSpec
from tune_resnet.config.validation import shown
from tune_resnet.data.cifar10 import load_cifar10
from tune_resnet.data.digits import load_digits
from tune_resnet.data.folder import load_folder
from tune_resnet.data.types import SIZE, DataError, Dataset


def load_dataset(spec: DataSpec) -> Dataset:
    """The whole source that `spec` names (`limit_train` comes with the split); DataError where it cannot be had."""
    if spec.dataset == "digits":
        if spec.data_dir is not None:
            raise DataError(f"the digits are not in {shown(spec.data_dir)}: --dataset folder takes images from there")
        return load_digits(spec.image_size)
    if spec.dataset == "cifar10":
        if spec.image_size != SIZE:
            raise DataError(f"CIFAR-10's images have {SIZE} pixels: data.image_size is for a folder or digits")
        default = user_cache_path("tune_resnet") / "cifar10"
        return load_cifar10(default if spec.data_dir is None else Path(spec.data_dir).expanduser())
    if spec.data_dir is None:
        raise DataError("data.dataset = 'folder' needs data.data_dir, the folder of your images")
    return load_folder(Path(spec.data_dir).expanduser(), spec.image_size, spec.split_seed)
