"""Models with an expert for every dataset of a mixture, told whose text they read and write."""

import dataclasses
from typing import Any

import ml_collections

from taxonomy import registry, spec
from taxonomy.data.mixture import Mixture
from taxonomy.errors import UserError, nearest
from taxonomy.registry import Component


def model(config: ml_collections.ConfigDict, domain: int | str | None) -> spec.Model:
    """The config's model, for which text of no known dataset is that of `domain`: its number, or its name in the mixture.

    Raises UserError where no router asks for datasets, or there is no such dataset.
    """
    found = spec.model(config.model)
    if domain is None:
        return found
    experts = [part["experts"] for part in found.components() if part.kind == "router" and _labelled(part)]
    if not experts:
        raise UserError(f"domain: {domain!r}, but no router of the model asks which dataset a text is from")
    number = _number(config, domain, min(experts))
    return dataclasses.replace(found, blocks=tuple((name, _told(block, number)) for name, block in found.blocks))


def _labelled(part: Component) -> bool:
    return registry.find((part.kind,), part.name).factory.labelled


def _number(config: ml_collections.ConfigDict, domain: int | str, experts: int) -> int:
    source = registry.create("source", config.data.source, "config.data.source")
    names = source.labels if isinstance(source, Mixture) else ()
    if domain in names:
        return names.index(domain)
    known = len(names) or experts
    if not str(domain).isdecimal() or int(domain) >= known:
        raise UserError(f"domain: no dataset {domain!r}, nor a number below {known}{nearest(str(domain), names)}")
    return int(domain)


def _told(value: Any, number: int) -> Any:
    """A component with the default of all routers in it that ask for datasets."""
    if isinstance(value, tuple):
        return tuple(_told(one, number) for one in value)
    if not isinstance(value, Component):
        return value
    own = {"default": number} if value.kind == "router" and _labelled(value) else {}
    return value.replace(**{name: _told(argument, number) for name, argument in value.arguments} | own)
