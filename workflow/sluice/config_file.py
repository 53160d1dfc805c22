"""Reading a configuration file: every problem in one message with key, value, what is allowed and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sluice.config import Config
from sluice.errors import ConfigError


def key_lines(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], int]:
    """Line number (from 1) of every key in a YAML tree."""
    found: dict[tuple[str, ...], int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, str(key.value))
            found[path] = key.start_mark.line + 1
            found |= key_lines(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            path = (*prefix, str(i))
            found[path] = value.start_mark.line + 1
            found |= key_lines(value, path)
    return found


def duplicate_keys(node: yaml.Node | None, prefix: str = "") -> list[str]:
    """A line for every key that a YAML tree gives twice."""
    found: list[str] = []
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            if name in seen:
                found.append(f"  {name}: given twice (lines {seen[name]} and {key.start_mark.line + 1})")
            seen[name] = key.start_mark.line + 1
            found += duplicate_keys(value, name + ".")
    return found


def _allowed_keys(path: tuple[str, ...], model: Any) -> str:
    for part in path[:-1]:
        fields = {f.alias or n: f for n, f in model.model_fields.items()}
        if part not in fields or not isinstance(fields[part].annotation, type):
            return ""
        model = fields[part].annotation
        if not issubclass(model, BaseModel):
            return ""
    return ", ".join(f.alias or n for n, f in model.model_fields.items())


def explain(error: ValidationError, lines: dict[tuple[str, ...], int], model: type[BaseModel] = Config) -> list[str]:
    """A line for every problem: key, value, what is allowed, line of the file.

    Args:
        error: of pydantic.
        lines: of the file's keys (``key_lines``).
        model: what the file was checked against.
    """
    explained = []
    for problem in error.errors():
        path = tuple(str(p) for p in problem["loc"])
        while path and path not in lines and path[:-1] in lines and problem["type"] != "missing":
            path = path[:-1]  # a union member or the like, which the user never wrote
        name = ".".join(path) or "(whole file)"
        where = f"line {lines[path]}: " if path in lines else ""
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            explained.append(f"  {where}{name}: unknown key; allowed here: {_allowed_keys(path, model)}")
        elif isinstance(problem["input"], dict | BaseModel):
            explained.append(f"  {where}{name}: {message}")
        else:
            explained.append(f"  {where}{name} = {problem['input']!r}: {message}")
    return explained


def check_config(values: dict[str, Any], *, source: Path | None = None) -> Config:
    """Turn plain values into a configuration with absolute paths.

    Args:
        values: what the YAML file says.
        source: that file, for line numbers and relative paths.

    Raises:
        ConfigError: with every problem in one message: key, value, what is allowed, line.
    """
    node = None
    if source is not None and source.exists():
        node = yaml.compose(source.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    problems = duplicate_keys(node)
    config = None
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += explain(error, key_lines(node))
    if config is not None:
        config = _resolve(config, source)
        problems += _missing_paths(config, key_lines(node))
    if problems or config is None:
        raise ConfigError(f"{source or 'configuration'} cannot be run:\n" + "\n".join(dict.fromkeys(problems)))
    return config


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: if it is missing, no YAML, or not a valid configuration.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold keys and values, not a {type(values).__name__}")
    return check_config(values, source=path)


def _resolve(config: Config, source: Path | None) -> Config:
    """Make paths absolute: input files from the configuration file's folder, outputs from the current directory."""
    base = source.parent if source is not None else Path.cwd()

    def absolute(path: Path | None, start: Path) -> Path | None:
        return None if path is None else (start / path.expanduser()).resolve()

    files, validate = config.curate.files, config.validate_
    new_files = files.model_copy(
        update={"path": absolute(files.path, base), "properties": absolute(files.properties, base)}
    )
    new_validate = validate.model_copy(
        update={
            "pseudos": absolute(validate.pseudos, base),
            "library": absolute(validate.library, Path.cwd()),
            "scratch": absolute(validate.scratch, Path.cwd()),
            "vasp": validate.vasp.model_copy(
                update={
                    "potcars": absolute(validate.vasp.potcars, base),
                    "references": absolute(validate.vasp.references, base),
                }
            ),
        }
    )
    data = config.compositions.data
    new_data = data.model_copy(update={"path": absolute(data.path, base)})
    objectives = tuple(o.model_copy(update={"model": absolute(o.model, base)}) for o in config.screen.objectives)
    results = absolute(config.results, Path.cwd())
    assert results is not None
    filters = tuple(
        o.model_copy(
            update={"model": absolute(o.model, base) or results / "experiments" / str(o.experiment) / "model.ckpt"}
        )
        for o in config.screen.score.filters
    )
    score = config.screen.score.model_copy(update={"filters": filters})
    return config.model_copy(
        update={
            "results": results,
            "curate": config.curate.model_copy(update={"files": new_files}),
            "validate_": new_validate,
            "screen": config.screen.model_copy(update={"objectives": objectives, "score": score}),
            "compositions": config.compositions.model_copy(update={"data": new_data}),
        }
    )


def _missing_paths(config: Config, lines: dict[tuple[str, ...], int]) -> list[str]:
    given: list[tuple[tuple[str, ...], Path | None]] = [
        (("curate", "files", "path"), config.curate.files.path if config.curate.source == "files" else None),
        (
            ("curate", "files", "properties"),
            config.curate.files.properties if config.curate.source == "files" else None,
        ),
        (("compositions", "data", "path"), config.compositions.data.path),
        (("validate", "pseudos"), config.validate_.pseudos),
        (("validate", "vasp", "potcars"), config.validate_.vasp.potcars),
        (("validate", "vasp", "references"), config.validate_.vasp.references),
    ]
    given += [(("screen", "objectives", str(i), "model"), o.model) for i, o in enumerate(config.screen.objectives)]
    # A model that an experiment has yet to make, or that may be missing, is missed when the campaign starts.
    given += [
        (("screen", "score", "filters", str(i), "model"), None if o.experiment or o.optional else o.model)
        for i, o in enumerate(config.screen.score.filters)
    ]
    return [
        f"  {f'line {lines[key]}: ' if key in lines else ''}{'.'.join(key)} = {str(path)!r}: no such file or directory"
        for key, path in given
        if path is not None and not path.exists()
    ]
