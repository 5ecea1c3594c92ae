"""Weights that others published: torchvision's, timm's, and timm models of the Hugging Face hub."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from loradar.core.errors import BadConfigError, BadFileError, LoradarError, did_you_mean
from loradar.core.randomness import seeded_rng
from loradar.models.backbones import build, canonical, without_classes
from loradar.models.base import Base, make_base
from loradar.models.imagenet import imagenet_classes
from loradar.models.weights import fresh_head, put_weights, with_own_head

_T = TypeVar("_T")
Numbers = Sequence[float] | None


def load_torchvision(
    name: str, *, num_classes: int | None, seed: int, options: dict[str, Any], mean: Numbers, std: Numbers
) -> Base:
    """torchvision's `name` with its published weights (option `weights`, else its default ones).

    Raises BadConfigError for a name that does not exist and BadFileError where the weights cannot be had.
    """
    from torchvision import models

    architecture, options = canonical(f"torchvision:{name}"), dict(options)
    published = models.get_model_weights(name)
    chosen = str(options.pop("weights", "DEFAULT"))
    if chosen not in published.__members__:
        known = list(published.__members__)
        raise BadConfigError(f"torchvision has no weights {chosen!r} of {name}; {did_you_mean(chosen, known)}")
    weights = published[chosen]
    # weights_only: the download is a pickle, and its hash alone would not stop it from running code
    state = _fetched(
        lambda: weights.get_state_dict(check_hash=True, weights_only=True, progress=False), f"the weights {weights}"
    )
    names, preset = tuple(weights.meta["categories"]), weights.transforms()
    side = preset.crop_size[0]
    options = _as_published(name, side) | options
    classes = len(names) if num_classes is None else num_classes
    module = build(architecture, num_classes=classes, seed=seed, **options)
    state, others = with_own_head(module, state)
    put_weights(module, state, str(weights))
    return make_base(
        module,
        architecture=architecture,
        num_classes=classes,
        input_size=(3, side, side),
        mean=mean or preset.mean,
        std=std or preset.std,
        classes=names if classes == len(names) else None,
        options=options,
        notes={"weights": str(weights)} | fresh_head(others, seed),
    )


def _as_published(name: str, side: int) -> dict[str, Any]:
    """Arguments that torchvision's builders take from the weights: without them the network is another one."""
    if name in ("googlenet", "inception_v3"):
        return {"transform_input": True, "init_weights": False}
    return {"image_size": side} if name.startswith("vit_") else {}


def load_timm(
    name: str, *, num_classes: int | None, seed: int, options: dict[str, Any], mean: Numbers, std: Numbers
) -> Base:
    """timm's `name` with its published weights. Raises as `load_torchvision` does."""
    canonical(f"timm:{name}")
    return _from_timm(name, num_classes=num_classes, seed=seed, options=options, mean=mean, std=std)


def load_hub(name: str, *, num_classes: int | None, options: dict[str, Any], mean: Numbers, std: Numbers) -> Base:
    """A timm model of the Hugging Face hub, `owner/name[@revision]`. Raises as `load_torchvision` does."""
    from timm.models import load_model_config_from_hf

    # the constructor's arguments stand beside the weights; they go into the description, to build it again offline
    _, _, arguments = _fetched(lambda: load_model_config_from_hf(name), f"the configuration of {name}")
    options = (arguments or {}) | options
    return _from_timm(f"hf-hub:{name}", num_classes=num_classes, seed=0, options=options, mean=mean, std=std)


def _from_timm(
    name: str, *, num_classes: int | None, seed: int, options: dict[str, Any], mean: Numbers, std: Numbers
) -> Base:
    import timm

    head = {} if num_classes is None else {"num_classes": num_classes}
    with seeded_rng(seed):
        module = _fetched(lambda: timm.create_model(name, pretrained=True, **head, **options), f"the weights of {name}")
    config = module.pretrained_cfg
    published = config.get("num_classes")
    if not module.num_classes:
        without_classes(module)
    channels, height, width = config["input_size"]
    side = options.get("img_size")
    names = config.get("label_names") if module.num_classes == published else None
    if names is None and module.num_classes == published == len(imagenet_classes()):
        names = imagenet_classes()
    return make_base(
        module,
        architecture=f"timm:{config['architecture']}",
        num_classes=int(module.num_classes),
        input_size=(int(options.get("in_chans", channels)), int(side or height), int(side or width)),
        mean=mean or config["mean"],
        std=std or config["std"],
        classes=names,
        options=options,
        notes={"weights": config.get("hf_hub_id") or config.get("url") or name}
        | fresh_head(None if module.num_classes == published else published, seed),
    )


def _fetched(fetch: Callable[[], _T], what: str) -> _T:
    try:
        return fetch()
    except LoradarError:
        raise
    except TypeError as error:
        raise BadConfigError(f"could not build a model for {what}: {error}") from error
    except Exception as error:  # each client raises its own kinds: urllib, httpx, huggingface_hub, timm
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadFileError(
            f"could not fetch {what}: {reason:.100} (is there a network? files once fetched are kept, and a base saved in a "
            "folder needs none)"
        ) from error
