"""Splits models of one structure into what they share, computed once, and what each of them adds."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from loradar.core.tracing import trace
from loradar.core.types import Images


class Trunk(nn.Module):
    """The shared stage: maps images to the tuple that the tails take. Without a graph it returns the images."""

    def __init__(self, graph: nn.Module | None = None) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x: Images) -> tuple[Tensor, ...]:
        if self.graph is None:
            return (x,)
        outputs: tuple[Tensor, ...] = self.graph(x)
        return outputs


def share(models: Sequence[nn.Module]) -> tuple[Trunk, list[nn.Module]]:
    """Makes a trunk and a tail for each model: `tail(*trunk(x))` equals the model, to the bit.

    A layer belongs to the trunk where every model has it with equal tensors and everything before it is shared as well.
    Models that torch.fx cannot trace, or whose graphs differ, share nothing: each is its own tail.
    """
    try:
        graphs = [fx.GraphModule(model, trace(model, is_leaf=_has_no_children)) for model in models]
    except Exception:  # tracing runs the models' own code on stand-ins, which can fail in any way
        return Trunk(), list(models)
    lines = list(zip(*(list(g.graph.nodes) for g in graphs), strict=False))
    if len({len(g.graph.nodes) for g in graphs}) > 1 or any(_call(n) != _call(line[0]) for line in lines for n in line):
        return Trunk(), list(models)
    common: set[str] = set()
    for line in lines:
        first = line[0]
        known = all(node.name in common for node in first.all_input_nodes)
        if first.op == "placeholder" or (first.op != "output" and known and _equal(graphs, first)):
            common.add(first.name)
    border = [
        node for node in graphs[0].graph.nodes if node.name in common and any(u.name not in common for u in node.users)
    ]
    if any(_overwrites(graphs[0], user) for node in border for user in node.users if user.name not in common):
        return Trunk(), list(models)
    return Trunk(_head(graphs[0], common, border)), [_tail(g, common, [n.name for n in border]) for g in graphs]


def _has_no_children(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _call(node: fx.Node) -> tuple[str, str, str, str]:
    return node.op, str(node.target), node.name, f"{node.args} {node.kwargs}"


def _equal(graphs: Sequence[fx.GraphModule], node: fx.Node) -> bool:
    """Whether what the node calls holds the same tensors in every model."""
    if node.op == "call_module":
        states = [list(g.get_submodule(str(node.target)).state_dict().values()) for g in graphs]
    elif node.op == "get_attr":
        states = [[_attribute(g, str(node.target))] for g in graphs]
    else:
        return True
    return all(
        a.shape == b.shape and bool(torch.equal(a, b))
        for other in states[1:]
        for a, b in zip(states[0], other, strict=True)
    )


def _overwrites(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node may write into its input, which the next tail would then read."""
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    # tracing turns `a += b` into a new tensor; only methods such as `a.add_(b)` write where they read
    return node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__")


def _attribute(module: nn.Module, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    value: Tensor = getattr(module.get_submodule(owner), name)
    return value


def _head(model: fx.GraphModule, common: set[str], border: list[fx.Node]) -> fx.GraphModule:
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in model.graph.nodes:
        if node.name in common:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in border))
    return fx.GraphModule(model, graph, class_name="Shared")


def _tail(model: fx.GraphModule, common: set[str], border: list[str]) -> fx.GraphModule:
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    by_name = {node.name: node for node in model.graph.nodes}
    for name in border:
        copies[by_name[name]] = graph.placeholder(name)
    for node in model.graph.nodes:
        if node.name not in common:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(model, graph, class_name="Tail")
