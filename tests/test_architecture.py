"""What holds the project together: one direction of imports, one word for each step, nothing unsafe, nothing local."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from sluice.config_docs import default_yaml, readme, with_protocols
from sluice.driver.rules import read_rules
from sluice.step import make_parser

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "workflow" / "sluice"
RULE_FILES = sorted((ROOT / "workflow" / "rules").rglob("*.smk"))
MODULES = sorted(PACKAGE.rglob("*.py"))
STAGES = ("curate", "train", "generate", "screen", "validate", "report")
SHARED = ("models", "chemistry")
ABOVE = ("experiments",)  # reproduces papers with everything there is; nothing imports it but the driver
TOP = ("cli", "driver", "config_docs")
MAX_LINES = 500
UNSAFE_MODULES = {"dill", "cloudpickle", "shelve", "marshal", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "load_module"}
RULES = {
    name: rule
    for folder in ("", "compositions", "experiments")
    for name, rule in read_rules(ROOT / "workflow" / "rules" / folder).items()
}
# Written in pieces, so that this file may be looked at as well. Words stand alone, other texts anywhere.
FORBIDDEN = (
    r"(?<!scope=\")\bsess" + r"ions?\b",
    "/wo" + "rk/",
    r"\.\./sha" + "red",
    r"\bpy" + r"pi\.org",
    r"download\.py" + r"torch\.org",
    "ana" + r"conda\.org",
)
ALLOWED = {".ci/run": (r"\.\./sha" + "red",)}


def layer(module: str) -> str:
    """First part below ``sluice``: a stage, a shared package, or the module itself; ``codes`` for validate/<code>."""
    parts = module.split(".")
    if parts[1:2] == ["validate"] and len(parts) > 2 and (PACKAGE / "validate" / parts[2]).is_dir():
        return "codes"
    return parts[1] if len(parts) > 1 else ""


def name_of(path: Path) -> str:
    return ".".join(("sluice", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Modules of this package that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == "sluice"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path):
    """cli → rules → stages → models, chemistry, validate/<code> → core; stages meet only through files."""
    here = layer(name_of(path))
    for name in imports(path):
        there = layer(name)
        if here in STAGES:
            forbidden = {*STAGES, *ABOVE, *TOP} - {here}
        elif here == "codes":
            forbidden = {*STAGES, *ABOVE, *TOP} - {"validate"}
        elif here in SHARED:
            forbidden = {*STAGES, *ABOVE, *TOP}
        elif here in ABOVE:
            forbidden = set(TOP)
        elif here in TOP or here.startswith("cli_"):
            forbidden = set()
        else:
            forbidden = {*STAGES, *SHARED, *ABOVE, *TOP, "codes"}
        assert there not in forbidden, f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines"


@pytest.mark.parametrize("name", RULES)
def test_rule_module_function_log_and_flags_are_one_word(name):
    rule = RULES[name]
    text = rule_text(name)
    module = f"sluice.{rule.stage}.{name}"
    assert f"python -m {module} " in text
    function = getattr(importlib.import_module(module), name)
    parameters = inspect.signature(function).parameters
    flags = {flag.replace("-", "_") for flag in re.findall(r'"--([a-z-]+)', text)} - {"log"}
    required = {p for p, v in parameters.items() if v.default is inspect.Parameter.empty}
    assert flags <= set(parameters), f"{name} has no parameter {flags - set(parameters)}"
    assert required <= flags, f"the rule gives no {required - flags}"
    make_parser(function)
    assert re.match(rf"logs/{name}(/|\.log$)", rule.log)
    assert re.search(rf'"benchmarks/{name}(/|\.tsv")', text)
    assert '__name__ == "__main__"' in Path(inspect.getfile(function)).read_text(encoding="utf-8")


def test_benchmarks_give_steps_what_they_ask_for():
    """A benchmark that starts steps as the workflow does, by ``run(attempts, "stage.step", …)``, is kept up to date."""
    bound = 0
    for path in (ROOT / "benchmarks").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match call:
                case ast.Call(func=ast.Name(id="run"), args=[_, ast.Constant(value=str(module))], keywords=keywords):
                    function = getattr(importlib.import_module(f"sluice.{module}"), module.rpartition(".")[2])
                    inspect.signature(function).bind(**{str(keyword.arg): None for keyword in keywords})
                    bound += 1
    assert bound >= 7


def rule_text(name: str) -> str:
    for path in RULE_FILES:
        match = re.search(rf"^rule {name}:.*?(?=^rule |\Z)", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        if match:
            return match.group(0)
    raise AssertionError(f"no rule {name}")


@pytest.mark.parametrize("name", RULES)
def test_rules_are_literal_and_complete(name):
    text = rule_text(name)
    for section in ("output", "log", "benchmark", "conda", "threads", "resources", "shell"):
        assert f"    {section}:" in text, f"{name} has no {section}"
    assert "mem_mb=" in text and "runtime=" in text
    output = text.split("    output:")[1].split("    log:")[0]
    assert "expand(" not in output and " + " not in output and 'f"' not in output
    assert RULES[name].outputs and RULES[name].log


@pytest.mark.parametrize("path", [ROOT / "Snakefile", *RULE_FILES], ids=lambda p: p.name)
def test_no_logic_in_rules(path):
    text = path.read_text(encoding="utf-8")
    for word in (r"^\s+run:", r"^\s+script:", r"\blambda\b", r"^\s+checkpoint\b", r"^checkpoint\b"):
        assert not re.search(word, text, flags=re.MULTILINE), f"{path.name} contains {word}"


def test_snakefile_is_the_pipeline():
    text = (ROOT / "Snakefile").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 50
    included = re.findall(r'include: "workflow/rules/(\d)_(\w+)\.smk"', text)
    assert [name for _, name in included] == list(STAGES)
    assert [int(number) for number, _ in included] == list(range(1, len(STAGES) + 1))
    of_compositions = re.findall(r'include: "workflow/rules/compositions/\d_(\w+)\.smk"', text)
    assert of_compositions == [stage for stage in STAGES if stage != "validate"]


def tracked_files() -> list[Path]:
    skipped = {".git", ".venv", "results", "__pycache__", ".snakemake", "build", "dist"}
    suffixes = {".py", ".smk", ".md", ".yaml", ".toml", ".cff", ".jinja", ".css", ".lock", ""}
    return [
        path
        for path in sorted(ROOT.rglob("*"))
        if path.is_file()
        and not skipped & set(path.relative_to(ROOT).parts)
        and not any(part.endswith((".egg-info", "_cache", ".hypothesis")) for part in path.parts)
        and path.suffix in suffixes
    ]


@pytest.mark.parametrize("path", tracked_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_of_the_workshop_is_mentioned(path):
    text = path.read_text(encoding="utf-8", errors="replace").lower()
    allowed = ALLOWED.get(str(path.relative_to(ROOT)), ())
    found = [p for p in FORBIDDEN if p not in allowed and re.search(p, text)]
    assert not found, f"{path} mentions {found}"


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", [*MODULES, *(ROOT / "workflow").glob("snakemake_*/*.py")], ids=lambda p: p.name)
def test_nothing_unsafe(path):
    """No pickle, no code from data, no shell."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {n.split(".")[0] for n in names} & UNSAFE_MODULES, f"{path} imports {names}"
    for name, call in calls(tree):
        keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert name not in UNSAFE_CALLS and not name.startswith("pickle."), f"{name} in {path}"
        assert keywords.get("shell", "False") == "False", f"shell=True in {path}, line {call.lineno}"
        assert keywords.get("allow_pickle", "False") == "False", f"allow_pickle in {path}, line {call.lineno}"
        if name.endswith("torch.load") or name == "torch.load":
            assert keywords.get("weights_only") == "True", (
                f"{path}, line {call.lineno}: torch.load without weights_only"
            )
        if name.endswith("extractall"):
            assert keywords.get("filter") == "'data'", f"{path}, line {call.lineno}: archive without path checks"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_functions_are_typed_and_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"
            assert node.returns is not None, f"{path}: {node.name} has no return type"


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "requirements.lock holds something that is no pin"
    return {normalized(name): version for name, version in pairs}


def dependencies() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(text) for text in project["dependencies"]]


def test_lock_satisfies_the_project():
    pins = lock()
    for requirement in dependencies():
        assert requirement.specifier.contains(pins[normalized(requirement.name)]), requirement
    assert "+" not in pins["torch"]


@pytest.mark.parametrize("name", ["python-cpu", "python-cuda", "espresso"])
def test_environments_have_the_pins_of_the_lock(name):
    environment = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text(encoding="utf-8"))
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert pip[-1] == "${SLUICE_PACKAGE}"
    given = dict(line.split("==") for line in pip[:-1])
    pins = lock()
    assert {normalized(n): v for n, v in given.items()} == {normalized(n): pins[normalized(n)] for n in given}
    assert {normalized(r.name) for r in dependencies()} <= {normalized(n) for n in given}


def test_every_environment_a_rule_names_exists():
    for path in RULE_FILES:
        for name in re.findall(r'"\.\./\.\./(envs/[\w-]+\.yaml)"', path.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{path.name} names {name}"


@pytest.mark.parametrize(("name", "text"), [("README.md", readme()), ("config.yaml", default_yaml())])
def test_configuration_documents_are_up_to_date(name, text):
    assert (ROOT / "config" / name).read_text(encoding="utf-8") == text, "run `python -m sluice.config_docs`"


def test_readme_states_the_protocols_as_they_are():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == with_protocols(text), "run `python -m sluice.config_docs`"
