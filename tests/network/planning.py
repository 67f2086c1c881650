"""Settings of `network.simulate` as a plan meets them; loads what a plan loads."""

from orchestrator.convert import build
from orchestrator.errors import RecipeError
from orchestrator.plugins import installed
from orchestrator_network.simulate_config import SimulateConfig
from orchestrator_network.stages import one_to_carry

REFUSED = (ValueError, RecipeError)


def planned(said, **wired):
    """Build the config of a recipe and check it with what is wired, as a plan does."""
    config = build(SimulateConfig, said, "", installed().components)
    one_to_carry(config, wired)
    return config


def able(make, *args, **said):
    """Whether it is made."""
    try:
        make(*args, **said)
    except REFUSED:
        return False
    return True


def made(kind, ref):
    """Build a component from what a recipe writes."""
    name, fields = (ref, {}) if isinstance(ref, str) else (ref["name"], {k: v for k, v in ref.items() if k != "name"})
    found = installed().components[kind, name]
    return found.build(None if found.config is None else build(found.config, fields, "", installed().components))
