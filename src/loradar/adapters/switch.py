"""One model, many adapters, one of them active at a time."""

from collections.abc import Mapping

from torch import Tensor, nn

from loradar.adapters.adapter import Adapter
from loradar.adapters.fingerprint import fingerprint
from loradar.adapters.fits import check_base
from loradar.adapters.plug import plug
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.types import Images


class AdapterSwitch(nn.Module):
    """`base` with the adapter applied that was chosen last, or with none: a change is a change of reference.

    Every adapter gets a shared copy of the base (see `plug`). So neither choosing one nor adding one depends on how many
    there are, and a choice touches no weight. Only the copy in use is a submodule: what `eval`, an attack or an optimiser
    does to the switch reaches no other.

    Raises as `add` does.
    """

    def __init__(self, base: nn.Module, adapters: Mapping[str, Adapter] | None = None) -> None:
        super().__init__()
        self._base_fingerprint = fingerprint(base)
        # in a list: a module in an attribute would be a submodule
        self._base = [base]
        self._plugged: dict[str, nn.Module] = {}
        self.used: str | None = None
        self.model = base
        for name, adapter in (adapters or {}).items():
            self.add(name, adapter)

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that can be used."""
        return tuple(self._plugged)

    def add(self, name: str, adapter: Adapter) -> None:
        """Adds `adapter` under `name`, in the place of one of that name; the one in use stays in use.

        Raises WrongBaseError for an adapter of another base.
        """
        (base,) = self._base
        check_base(adapter, self._base_fingerprint)
        self._plugged[name] = plug(base, adapter, check=False)
        if name == self.used:
            self.use(name)

    def remove(self, name: str) -> None:
        """Removes the adapter; the base alone is used where it was active. Raises BadConfigError for an unknown name."""
        self._known(name)
        if name == self.used:
            self.use(None)
        del self._plugged[name]

    def use(self, name: str | None) -> None:
        """Makes this adapter the active one, for None no adapter. Raises BadConfigError for an unknown name."""
        if name is None:
            (self.model,) = self._base
        else:
            self.model = self._known(name)
        self.used = name

    def _known(self, name: str) -> nn.Module:
        if name not in self._plugged:
            raise BadConfigError(f"no adapter {name!r} here; {did_you_mean(name, self._plugged)}")
        return self._plugged[name]

    def forward(self, x: Images) -> Tensor:
        logits: Tensor = self.model(x)
        return logits
