"""The LoRA cases of PEFT's own suite (tests/test_custom_models.py, TEST_CASES), each made by PEFT: what each comes to here.

A case opens with PEFT's logits, or is refused in one line. `docs/peft.md` has the same table by groups, which a test compares.
"""

import copy
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loradar.adapters import load, merge_weights, plug, save
from loradar.core.errors import BadFileError, WrongBaseError

peft = pytest.importorskip("peft", reason="peft, of the extra 'peers', is not installed")


class Attention(nn.Module):
    """Self-attention between the images' rows, as the model of the suite has it."""

    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(10, 2)
        self.lin0 = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.lin0(self.mha(x, x, x)[0])
        return logits


class OwnLinear(nn.Module):
    """A linear layer that is no nn.Linear."""

    def __init__(self, inner: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, inner) / inner)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def chain(**layers: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(layers))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (lambda: chain(lin0=nn.Linear(10, 20), relu=nn.ReLU(), lin1=nn.Linear(20, 2)), (10,)),
    "parameters": (lambda: chain(lin0=OwnLinear(10, 20), relu=nn.ReLU(), lin1=OwnLinear(20, 2)), (10,)),
    "EmbConv1D": (
        lambda: chain(
            emb=nn.Embedding(100, 5),
            conv1d=Conv1D(1, 5),
            flat=nn.Flatten(),
            lin0=nn.Linear(10, 2),
        ),
        (10,),
    ),
    "Conv1d": (lambda: chain(conv1d=nn.Conv1d(1, 1, 2), flat=nn.Flatten(), lin0=nn.Linear(9, 2)), (1, 10)),
    "Conv2d": (
        lambda: chain(conv2d=nn.Conv2d(5, 10, 3), relu=nn.ReLU(), flat=nn.Flatten(), lin0=nn.Linear(10, 2)),
        (5, 3, 3),
    ),
    "Conv2dGroups": (
        lambda: chain(conv2d=nn.Conv2d(16, 16, 3, groups=8), flat=nn.Flatten(), lin1=nn.Linear(16, 2)),
        (16, 3, 3),
    ),
    "Conv2dGroups2": (
        lambda: chain(
            conv2d=nn.Conv2d(16, 32, 3, padding=1, groups=2), relu=nn.ReLU(), flat=nn.Flatten(), lin0=nn.Linear(800, 2)
        ),
        (16, 5, 5),
    ),
    "Conv3d": (lambda: chain(conv3d=nn.Conv3d(5, 10, 3), flat=nn.Flatten(), lin0=nn.Linear(10, 2)), (5, 3, 3, 3)),
    "MHA": (Attention, (10,)),
}


class Case(NamedTuple):
    """`group` names its row in docs/peft.md; `refused` is a part of the line that says why, "" for a case that opens."""

    group: str
    name: str
    model: str
    settings: dict[str, Any]
    refused: str = ""


def dora(*targets: str, **further: Any) -> dict[str, Any]:
    return {"target_modules": list(targets), "use_dora": True, **further}


def lora(*targets: str, **further: Any) -> dict[str, Any]:
    return {"target_modules": list(targets), **further}


EMBEDDING = "lora_embedding_A is not a tensor of a LoRA on a Linear or a Conv2d"
CONV1D_OF_TRANSFORMERS = "conv1d is a Conv1D; a delta goes on a Conv2d or a Linear"
NO_CONV2D = "of a Linear or a Conv2d"
BIASED = {"lora_bias": True, "lora_alpha": 32}


def velora(init_type: str) -> dict[str, Any]:
    return {"velora_config": peft.VeloraConfig(num_groups=2, init_type=init_type)}


def blocks(**settings: Any) -> dict[str, Any]:
    return {"use_bdlora": peft.tuners.lora.config.BdLoraConfig(**settings)}


CASES = [
    Case("Linear", "MLP 1", "MLP", {"target_modules": "lin0"}),
    Case("Linear", "MLP 2", "MLP", lora("lin0")),
    Case("Linear", "MLP 3", "MLP", lora("lin1")),
    Case("Linear", "MLP 4", "MLP", lora("lin0", "lin1")),
    Case("Linear", "MLP 5", "MLP", lora("lin0", modules_to_save=["lin1"])),
    Case("Linear", "MLP 6", "MLP", lora("lin0", lora_alpha=4, lora_dropout=0.1)),
    Case("Linear, DoRA", "MLP 7", "MLP", dora("lin0")),
    Case("Linear, DoRA", "MLP 8", "MLP", dora("lin0", "lin1")),
    Case("Linear, DoRA", "MLP 9", "MLP", {"target_modules": "lin1", "use_dora": True, "lora_alpha": 32}),
    Case("Linear, KaSA", "KaSA", "MLP", lora("lin0", kasa_config=peft.KasaConfig(), r=4), "has kasa_config="),
    Case("Linear, MiCA", "MiCA", "MLP", lora("lin0", init_lora_weights="mica", r=4)),
    Case("Linear, VeLoRA", "VeLoRA random", "MLP", lora("lin0", **velora("random"))),
    Case("Linear, VeLoRA", "VeLoRA average", "MLP", lora("lin0", "lin1", **velora("batch_average"))),
    Case("Linear, VeLoRA", "VeLoRA average once", "MLP", lora("lin0", **velora("batch_average_once"))),
    Case(
        "Linear, MonteCLoRA", "MonteCLoRA", "MLP", lora("lin0", monteclora_config=peft.MontecloraConfig(num_samples=2))
    ),
    Case(
        "Linear, block-diagonal",
        "BD-LoRA A",
        "MLP",
        lora("lin0", "lin1", **blocks(target_modules_bd_a=["lin0"], match_strict=False)),
    ),
    Case(
        "Linear, block-diagonal",
        "BD-LoRA B",
        "MLP",
        lora("lin0", "lin1", **blocks(target_modules_bd_b=["lin1"], nblocks=2, match_strict=False)),
    ),
    Case(
        "Linear, block-diagonal",
        "BD-LoRA both",
        "MLP",
        lora("lin0", "lin1", **blocks(target_modules_bd_a=["lin0"], target_modules_bd_b=["lin1"], nblocks=2)),
    ),
    Case("Linear, lora_bias", "MLP bias", "MLP", lora("lin0", "lin1", **BIASED)),
    Case("Linear, target_parameters", "MLP 2 parameter", "MLP", lora("lin0", target_parameters=["lin1.weight"])),
    Case(
        "another linear class, target_parameters",
        "MLP 1 parameter",
        "parameters",
        lora(target_parameters=["lin0.weight"]),
        "lin0 is a OwnLinear; a delta goes on a Conv2d or a Linear",
    ),
    Case("Conv2d", "Conv2d 1", "Conv2d", lora("conv2d")),
    Case("Conv2d", "Conv2d 2", "Conv2d", lora("conv2d", "lin0")),
    Case("Conv2d, DoRA", "Conv2d 1 DoRA", "Conv2d", dora("conv2d")),
    Case("Conv2d, DoRA", "Conv2d 2 DoRA", "Conv2d", dora("conv2d", "lin0")),
    Case("Conv2d, lora_bias", "Conv2d bias", "Conv2d", lora("conv2d", **BIASED)),
    Case("grouped Conv2d", "groups", "Conv2dGroups", lora("conv2d")),
    Case("grouped Conv2d", "groups 2", "Conv2dGroups2", lora("conv2d")),
    Case("grouped Conv2d, DoRA", "groups DoRA", "Conv2dGroups", dora("conv2d")),
    Case("grouped Conv2d, DoRA", "groups 2 DoRA", "Conv2dGroups2", dora("conv2d")),
    Case("nn.MultiheadAttention", "MHA 1", "MHA", lora("mha")),
    Case("nn.MultiheadAttention", "MHA 2", "MHA", lora("mha", "lin0")),
    Case("Embedding", "EmbConv1D 2", "EmbConv1D", lora("emb"), EMBEDDING),
    Case("Embedding", "EmbConv1D 3", "EmbConv1D", lora("emb", "conv1d"), EMBEDDING),
    Case("Embedding", "EmbConv1D 2 DoRA", "EmbConv1D", dora("emb"), EMBEDDING),
    Case("Embedding", "EmbConv1D 3 DoRA", "EmbConv1D", dora("emb", "conv1d"), EMBEDDING),
    Case(
        "Embedding",
        "EmbConv1D tokens",
        "EmbConv1D",
        lora("conv1d", trainable_token_indices={"emb": [0, 10]}),
        "has trainable_token_indices=",
    ),
    Case("Conv1D of transformers", "EmbConv1D 1", "EmbConv1D", lora("conv1d"), CONV1D_OF_TRANSFORMERS),
    Case("Conv1D of transformers", "EmbConv1D 1 DoRA", "EmbConv1D", dora("conv1d"), CONV1D_OF_TRANSFORMERS),
    Case("Conv1d", "Conv1d", "Conv1d", lora("conv1d"), NO_CONV2D),
    Case("Conv1d", "Conv1d DoRA", "Conv1d", dora("conv1d"), NO_CONV2D),
    Case("Conv3d", "Conv3d 1", "Conv3d", lora("conv3d"), NO_CONV2D),
    Case("Conv3d", "Conv3d 2", "Conv3d", lora("conv3d", "lin0"), NO_CONV2D),
    Case("Conv3d", "Conv3d 1 DoRA", "Conv3d", dora("conv3d"), NO_CONV2D),
    Case("Conv3d", "Conv3d 2 DoRA", "Conv3d", dora("conv3d", "lin0"), NO_CONV2D),
    Case("Conv3d", "Conv3d bias", "Conv3d", lora("conv3d", **BIASED), NO_CONV2D),
]


def made(case: Case, folder: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """Writes the adapter of `case`, every trainable tensor moved. Returns the base, inputs and the logits of PEFT's model."""
    make, shape = MODELS[case.model]
    torch.manual_seed(0)
    base = make().eval()
    x = torch.randint(100, (9, *shape)) if case.model == "EmbConv1D" else torch.randn(9, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**copy.deepcopy(case.settings)))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += torch.randn(parameter.shape) * 0.3
            logits: Tensor = model.eval()(x)
        model.save_pretrained(str(folder))
    return base, x, logits


@pytest.mark.parametrize("case", [c for c in CASES if not c.refused], ids=lambda c: c.name)
def test_a_case_that_opens_has_the_logits_of_peft(case: Case, tmp_path: Path) -> None:
    base, x, expected = made(case, tmp_path / "theirs")
    assert (expected - base(x)).abs().max() > 1e-2
    adapter = load(tmp_path / "theirs")
    scale = float(expected.detach().abs().max())
    for model in (plug(base, adapter), merge_weights(base, adapter)):
        assert torch.allclose(model(x) / scale, expected / scale, atol=1e-5, rtol=0)
    plug(base, adapter)(x).square().sum().backward()
    assert all(t.grad is not None for delta in adapter.deltas.values() for t in delta.tensors.values())
    again = load(save(adapter, tmp_path / "ours", base))
    assert torch.equal(plug(base, again)(x), plug(base, adapter)(x))


@pytest.mark.parametrize("case", [c for c in CASES if c.refused], ids=lambda c: c.name)
def test_a_case_that_does_not_open_says_why_in_one_line(case: Case, tmp_path: Path) -> None:
    base, _, _ = made(case, tmp_path / "theirs")
    with pytest.raises((BadFileError, WrongBaseError), match=re.escape(case.refused)) as refusal:
        plug(base, load(tmp_path / "theirs"))
    assert "\n" not in str(refusal.value)


def test_the_page_says_what_each_case_does() -> None:
    page = (Path(__file__).parents[2] / "docs" / "peft.md").read_text()
    table = [
        (group, int(count), kind) for group, count, kind in re.findall(r"\| (.+) \| (\d+) \| (opens|refused)", page)
    ]
    counts = Counter((case.group, "refused" if case.refused else "opens") for case in CASES)
    assert sorted(table) == sorted((group, count, kind) for (group, kind), count in counts.items())
    opens = sum(not case.refused for case in CASES)
    assert f"Of {len(CASES)} cases {opens} open and {len(CASES) - opens} are refused" in page


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            lora("lin1", target_parameters=["lin0.weight"], alpha_pattern={"lin0.weight": 3}),
            "beside a rank_pattern or an",
        ),
        (lora(target_parameters=["lin0.weight"], rank_pattern={"lin0.weight": 3}), "beside a rank_pattern or an"),
        (lora("lin0", init_lora_weights="pissa", r=2), "init_lora_weights='pissa', which changes the base's weights"),
    ],
)
def test_what_changes_the_maths_beyond_the_suite_is_refused(
    settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    made(Case("", "", "MLP", settings), tmp_path / "theirs")
    with pytest.raises(BadFileError, match=re.escape(says)):
        load(tmp_path / "theirs")


def test_two_changes_of_one_layer_are_refused(tmp_path: Path) -> None:
    made(Case("", "", "MLP", lora("lin0")), tmp_path / "theirs")
    weights = tmp_path / "theirs" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    doubled = {key.replace("lin0.", "lin0.base_layer."): tensor.clone() for key, tensor in tensors.items()}
    safetensors.torch.save_file(tensors | doubled, weights)
    with pytest.raises(BadFileError, match=r"is the second lora_A\.weight of lin0; expected one change of each layer"):
        load(tmp_path / "theirs")
