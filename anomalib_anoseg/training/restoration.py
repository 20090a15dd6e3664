"""A model becomes what a checkpoint holds, whatever arguments it was made with itself."""

import inspect
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, NamedTuple

from lightning.pytorch.trainer.states import TrainerFn

logger = logging.getLogger(__name__)
NOT_IN_CHECKPOINT = ("pre_processor", "post_processor", "evaluator", "visualizer")


class Contradiction(NamedTuple):
    """An argument that somebody gave, and that is another one in the checkpoint."""

    name: str
    given: Any
    saved: Any

    def __str__(self) -> str:
        return f"{self.name} is {self.saved!r} in the checkpoint, but {self.given!r} was given"


def restored_arguments(module: Any, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a model has once the checkpoint is loaded.

    Those of the checkpoint. Only a run that is resumed may go on with others, and only with ones
    that leave the networks as they are.

    Args:
        module: The model that was made, with its arguments in ``hparams``.
        saved: The arguments in the checkpoint.

    Raises:
        ValueError: If a resumed run was given arguments of other networks.
    """
    defaults = _defaults(type(module))
    given = {name: module.hparams[name] for name in defaults if name in module.hparams}
    saved = defaults | {name: saved[name] for name in defaults if name in saved}
    found = contradictions(given, saved, defaults)
    if not is_resumed(module):
        warn(found)
        return saved
    networks = _without_files(module.architecture(saved))
    refused = [e for e in found if _without_files(module.architecture(_with(saved, e))) != networks]
    if refused:
        msg = (
            f"cannot resume {module.trainer.ckpt_path} with other networks: "
            f"{'; '.join(map(str, refused))}. "
            "Leave these arguments out, or train anew without the checkpoint"
        )
        raise ValueError(msg)
    if saved["variation"] == [] and plain(given["variation"]) == plain(defaults["variation"]):
        logger.warning(
            "the run did not vary its good images, or by augmentations of its own, which are in no "
            "checkpoint: give those again as variation"
        )
    for entry in found:
        saved = _with(saved, entry)
    return saved


def _without_files(architecture: dict[str, Any]) -> dict[str, Any]:
    """Return it without the name of a region's file, whose content is compared instead."""
    region = architecture["region"]
    return architecture | {"region": "a file" if isinstance(region, str) else region}


def is_resumed(module: Any) -> bool:
    """Tell whether the checkpoint is loaded to go on with a run."""
    trainer = module._trainer  # noqa: SLF001 - the public one raises where there is none
    return trainer is not None and trainer.state.fn == TrainerFn.FITTING


def restore_component(
    module: Any, name: str, checkpoint: Mapping[str, Any], kinds: Iterable[type]
) -> bool:
    """Give the model the kind of component that it was saved with; say whether anything changes.

    Its settings follow in anomalib's ``on_load_checkpoint``; here they are compared.

    Args:
        module: The model.
        name: "pre_processor" or "post_processor".
        checkpoint: What was saved.
        kinds: Classes that can be made anew.
    """
    given, default = getattr(module, name), getattr(module, f"configure_{name}")()
    enabled = checkpoint.get("anomalib_components_enabled", {}).get(name, True)
    kind = checkpoint.get(f"anoseg_{name}", kind_of(default)) if enabled else None
    if kind == kind_of(given):
        ours, theirs = _comparable(given, checkpoint.get(f"anomalib_{name}_config") or {})
        warn(contradictions(ours, theirs, _settings(default), f"{name}."))
        return plain(ours) != plain(theirs)
    if kind_of(given) != kind_of(default):
        warn([Contradiction(name, kind_of(given), kind)])
    known = {f"{entry.__module__}.{entry.__qualname__}": entry for entry in kinds}
    if kind is not None and kind not in known:
        logger.warning("the checkpoint was made with %s, which has to be given again", kind)
        return False
    restored = None if kind is None else known[kind]()
    setattr(module, name, restored)
    _replace_callback(module, given, restored)
    return True


def name_what_is_tested(module: Any) -> None:
    """Warn that ``anomalib train --ckpt_path`` tests what it was resumed from, not what it made."""
    trainer = module._trainer  # noqa: SLF001
    if is_resumed(module):
        module.resumed_from = trainer.ckpt_path
    elif trainer is not None and module.resumed_from == trainer.ckpt_path is not None:
        logger.warning(
            "these are the figures of %s, from which the run was resumed; what it ended with is %s",
            trainer.ckpt_path,
            getattr(trainer.checkpoint_callback, "best_model_path", "not saved"),
        )


def name_what_export_forgets(model: Any) -> None:
    """Warn of arguments of the model that anomalib's Engine.export was given.

    It loads another one from the checkpoint and says nothing. To be called by what it calls.

    Args:
        model: What was loaded.
    """
    from anomalib.engine import Engine  # not before it is loaded: it loads the models itself

    frame = sys._getframe(2)  # noqa: SLF001 - the one place that knows both
    given: Any = frame.f_locals.get("model")
    if frame.f_code is not Engine.export.__code__ or type(given) is not type(model):
        return
    found = contradictions(given.hparams, model.hparams, _defaults(type(model)))
    for name in ("pre_processor", "post_processor"):
        default = getattr(model, f"configure_{name}")()
        ours, theirs = _comparable(getattr(given, name), _settings(getattr(model, name)))
        found += contradictions(ours, theirs, _settings(default), f"{name}.")
    warn(found)
    if any(entry.name.startswith("post_processor.") for entry in found):
        logger.warning(
            "anomalib-anoseg export --image_sensitivity, --pixel_sensitivity, "
            "--false_alarm_rate and --smallest_defect change it"
        )


def kind_of(component: object) -> str | None:
    """Return the full name of a component's class, None if there is no component."""
    if component is None:
        return None
    return f"{type(component).__module__}.{type(component).__qualname__}"


def contradictions(
    given: Mapping[str, Any], saved: Mapping[str, Any], default: Mapping[str, Any], prefix: str = ""
) -> list[Contradiction]:
    """Return what was given, is not the default, and is another value in the checkpoint."""
    flat = (dict(_flat(plain(values))) for values in (given, saved, default))
    ours, theirs, usual = flat
    found = [
        Contradiction(prefix + name, value, theirs[name])
        for name, value in ours.items()
        if name in theirs and value != theirs[name] and value != usual.get(name)
    ]
    for name in given.keys() & saved.keys():  # laws, and a list, which have no names in common
        value, theirs = plain(given[name]), plain(saved[name])
        if {type(value), type(theirs)} == {dict, list} and value != plain(default.get(name)):
            found.append(Contradiction(prefix + name, value, theirs))
    return found


def warn(found: list[Contradiction]) -> None:
    """Name arguments that have no effect."""
    for entry in found:
        logger.warning("%s: the checkpoint's is used", entry)


def plain(value: Any) -> Any:
    """Return the same as dicts and lists, so that a default equals what a file says of it."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _with(arguments: Mapping[str, Any], entry: Contradiction) -> dict[str, Any]:
    """Return the arguments with what was given instead of what was saved."""
    name, _, inner = entry.name.partition(".")
    value = entry.given
    if inner:
        value = _with(arguments[name], entry._replace(name=inner))
    return {**arguments, name: value}


def _defaults(kind: type) -> dict[str, Any]:
    """Return the defaults of what a checkpoint holds, in the form in which it holds it."""
    arguments = inspect.signature(kind).parameters.values()
    return {
        p.name: plain(p.default) if is_dataclass(p.default) else p.default
        for p in arguments
        if p.name not in NOT_IN_CHECKPOINT
    }


def _settings(component: Any) -> dict[str, Any]:
    return component.checkpoint_config() if hasattr(component, "checkpoint_config") else {}


def _comparable(component: Any, saved: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a component's settings and those of the checkpoint, each thing said once."""
    ours = _settings(component)
    both = "image_size" in ours and "image_size" in saved
    if not both:
        return ours, saved
    left_out = {"transform"}  # the size says it
    return {k: ours[k] for k in ours.keys() - left_out}, {
        k: saved[k] for k in saved.keys() - left_out
    }


def _replace_callback(module: Any, old: object, new: Any) -> None:
    """Lightning attaches callbacks before it reads the checkpoint."""
    trainer = module._trainer  # noqa: SLF001
    if trainer is None:
        return
    if old is None:
        trainer.callbacks.insert(0, new)  # before the evaluator, which sees what it makes
    else:
        others = [new if callback is old else callback for callback in trainer.callbacks]
        trainer.callbacks = [callback for callback in others if callback is not None]
