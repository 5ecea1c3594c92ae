"""Bases by a one-line name."""

from pathlib import Path
from typing import Any

from torch import nn

from loradar.core.errors import BadConfigError, BadFileError
from loradar.core.files import parse_object, read_regular
from loradar.core.names import BASE_CONFIG
from loradar.core.remote import find_file, local_folder
from loradar.core.temporaries import put_back
from loradar.models.backbones import build, canonical, is_headless
from loradar.models.base import Base, make_base, new_base
from loradar.models.folders import load_folder
from loradar.models.imagenet import imagenet_classes
from loradar.models.pretrained import load_hub, load_timm, load_torchvision
from loradar.models.specs import Spec, Value, parse_spec, refuse_rest, take_flag, take_integer, take_numbers
from loradar.models.stages import staged
from loradar.models.weights import fresh_head, put_weights, read_weights, with_own_head

_KINDS = "a folder with config.json, FILE.safetensors:architecture=NAME, torchvision:NAME, timm:NAME or hub:owner/name"
_FILE_KEYS = ("architecture", "num_classes", "mean", "std", "size")
_STAGES = "stages:"
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def load_base(spec: str) -> Base:
    """The base that `spec` names, in eval mode and float32, on the CPU.

    | spec | what |
    |---|---|
    | `FOLDER` | `config.json` and `model.safetensors`, as `save_base` writes them; also a URI (`s3://bucket/base`) |
    | `torchvision:NAME` | options: pretrained=true, weights=IMAGENET1K_V1, num_classes=N, seed=0 |
    | `timm:NAME` | options: pretrained=true, num_classes=N, seed=0, and any of the constructor (img_size=32) |
    | `hub:owner/name[@revision]` | a base that `loradar push` brought to the Hugging Face hub, else a timm model there; of \
timm, options: num_classes=N, and the constructor's |
    | `FILE.safetensors`, `.pt`, `.pth` | options: architecture=NAME and num_classes=N (both needed), size=32 |
    | `resnet18-cifar:pretrained=false` | fresh weights, of any architecture; options: num_classes=N, seed=0 |
    | `stages:SPEC` | any of these, its features those of several stages (see `MultiStageFeatures`), its logits the same |

    All but a folder take mean=0.49/0.48/0.45 and std=0.25/0.24/0.26; without them the normalisation is the weights'
    own, for a file that of the architecture (CIFAR-10's for a CIFAR stem, else ImageNet's or timm's). With another
    `num_classes` than the weights have the head is fresh, which the description says. timm's weights without a head
    (DINOv2, SigLIP), and any timm model with num_classes=0, are bases of 0 classes: of features, for few-shot tasks and for
    a new head. Weights of 1,000 classes have the names of ImageNet's. Raises BadConfigError and BadFileError, one
    line each.
    """
    is_staged = spec.startswith(_STAGES)
    base = staged(load_base(spec.removeprefix(_STAGES))) if is_staged else _load(parse_spec(spec))
    base.description["spec"] = spec
    return base


def _load(spec: Spec) -> Base:
    options = dict(spec.options)
    if spec.what.startswith("hub:") and not _is_own(spec.what):
        normalisation = {"mean": take_numbers(options, "mean"), "std": take_numbers(options, "std")}
        classes = take_integer(options, "num_classes", least=0)
        return load_hub(spec.what.removeprefix("hub:"), num_classes=classes, options=options, **normalisation)
    path = local_folder(spec.what)
    put_back(path)
    if path.is_dir():
        refuse_rest(options, (), spec.what)
        return load_folder(path)
    if path.suffix in _SUFFIXES and not spec.what.startswith(("timm:", "torchvision:")):
        return _load_file(path, options)
    family, _, name = spec.what.partition(":")
    normalisation = {"mean": take_numbers(options, "mean"), "std": take_numbers(options, "std")}
    if not take_flag(options, "pretrained", True):
        return _fresh(spec.what, options, normalisation)
    if family not in ("torchvision", "timm") or not name:
        raise BadConfigError(f"there is no base {spec.what!r}; expected {_KINDS}")
    classes, seed = take_integer(options, "num_classes", least=0), _seed(options)
    load = load_timm if family == "timm" else load_torchvision
    return load(name, num_classes=classes, seed=seed, options=options, **normalisation)


def _is_own(place: str) -> bool:
    """Whether the folder `place` on the hub is one of `save_base`: its config, unlike timm's, binds the weights."""
    config = find_file(place, BASE_CONFIG)
    try:
        return config is not None and "sha256" in parse_object(read_regular(config))
    except (OSError, ValueError):
        return False


def _fresh(architecture: str, options: dict[str, Any], normalisation: dict[str, Any]) -> Base:
    classes, seed = take_integer(options, "num_classes", least=0), _seed(options)
    if classes is None:
        classes = 0 if is_headless(canonical(architecture)) else 1000
    return new_base(architecture, num_classes=classes, seed=seed, **normalisation, **options)


def _load_file(path: Path, options: dict[str, Any]) -> Base:
    text = str(path)
    if not path.is_file():
        raise BadFileError(f"there is no file {text}")
    architecture = options.pop("architecture", None)
    if architecture is None:
        raise BadConfigError(f"{text}: weights alone do not say what they are; add :architecture=NAME,num_classes=N")
    name = canonical(str(architecture))
    classes = take_integer(options, "num_classes", least=0)
    mean, std, size = take_numbers(options, "mean"), take_numbers(options, "std"), take_integer(options, "size")
    if not name.startswith("timm:"):
        refuse_rest(options, _FILE_KEYS, text)
    weights, digest = read_weights(path)
    if classes is None and is_headless(name):
        classes = 0
    if classes is None:
        raise BadConfigError(f"{text}: the number of classes is not said; add num_classes=N")
    module = build(name, num_classes=classes, **options)
    weights, others = with_own_head(module, weights, head=_classifier(module))
    put_weights(module, weights, text)
    named = imagenet_classes() if others is None and classes == len(imagenet_classes()) else None
    return make_base(
        module,
        architecture=name,
        num_classes=classes,
        input_size=None if size is None else (3, size, size),
        mean=mean,
        std=std,
        classes=named,
        options=options,
        notes={"sha256": digest} | fresh_head(others, 0),
    )


def _classifier(module: nn.Module) -> tuple[str, ...]:
    """The layers that timm says are the head, for weights that may lack it."""
    found = (getattr(module, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (found,) if isinstance(found, str) else tuple(found)


def _seed(options: dict[str, Value]) -> int:
    seed = options.pop("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise BadConfigError(f"seed={seed}: expected an integer")
    return seed
