"""The rules of the house that a reader relies on: which module may import which, and a README that is true."""

import ast
import re

import pytest
from conftest import ROOT

import predict
import train
from neural_lib import datasets
from neural_lib.config import RECIPES, TrainConfig, flag_of, shown

# each module may import those before it, and no script
MODULES = [
    "errors",
    "models",
    "config",
    "machine",
    "devices",
    "files",
    "interrupts",
    "monitor",
    "metrics",
    "cli",
    "downloads",
    "readers",
    "placement",
    "datasets",
    "results",
    "resume",
    "plots",
    "annotate",
    "pages",
    "pictures",
    "answers",
    "canvas",
    "drawing",
    "display",
    "ink",
    "convert",
    "lenet",
    "lenet_slim",
    "vgg_small",
    "resnet",
    "distributed",
    "augment",
    "loaders",
    "evaluation",
    "archive",
    "checkpoint",
    "board",
    "runs",
    "tables",
    "state",
    "training",
    "prepare",
    "page",
    "report",
    "recogniser",
    "own_pictures",
    "export",
    "fallback",
    "options",
]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def imports_of(path) -> set[str]:
    """The neural_lib modules that a file imports anywhere; what only type checkers see doesn't count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ignored = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in ignored or not isinstance(node, ast.ImportFrom | ast.Import):
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "neural_lib":
            found |= {alias.name for alias in node.names}
        names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        found |= {name.removeprefix("neural_lib.") for name in names if name.startswith("neural_lib.")}
        assert not {"train", "predict"} & set(names), f"{path} imports a script"
    return found


def test_every_module_has_its_place():
    assert sorted(path.stem for path in (ROOT / "neural_lib").glob("*.py")) == sorted(["__init__", *MODULES])


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    before = set(MODULES[: MODULES.index(module)])
    assert imports_of(ROOT / "neural_lib" / f"{module}.py") <= before


def test_predict_stays_clear_of_the_training_loop():
    seen, waiting = set(), imports_of(ROOT / "predict.py")
    while waiting:
        module = waiting.pop()
        seen.add(module)
        waiting |= imports_of(ROOT / "neural_lib" / f"{module}.py") - seen
    assert "checkpoint" in seen and not {"training", "state"} & seen


def test_only_the_archive_saves_and_loads_with_torch():
    for path in [*ROOT.glob("*.py"), *(ROOT / "neural_lib").glob("*.py")]:
        uses = re.search(r"torch\.(save|load)\(", path.read_text(encoding="utf-8"))
        assert bool(uses) is (path.stem == "archive"), path


def test_the_readmes_tree_is_the_disks():
    tree = README.split("<!-- tree -->")[1]
    told = set(re.findall(r"^ *([\w.]+\.py|[\w.]+/)(?= |$)", tree, re.MULTILINE))
    on_disk = {path.name for folder in ("", "neural_lib", "tests") for path in (ROOT / folder).glob("*.py")}
    assert told == on_disk - {"__init__.py"} | {"neural_lib/", "tests/", "output/"}


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_the_readme_tells_every_data_sets_size_licence_and_source(name):
    info = datasets.DATASETS[name]
    row = next(row for row in README.splitlines() if row.startswith(f"| `{name}` | {info.train_size:,} + "))
    assert f"+ {info.test_size:,} images" in row and f"| {info.licence} |" in row
    for reference in re.findall(r"doi:\S+?(?=;|$)|(?<=arXiv:)\d+\.\d+", info.source):
        assert reference in row


@pytest.mark.parametrize("script", [train, predict])
def test_the_readmes_options_are_the_scripts_own_with_their_defaults(script, capsys):
    section = README.split(f"\n## {script.__name__}.py\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:3]] for row in section.splitlines() if row.startswith("| `-")]
    told = {option for options, _ in rows for option in re.findall(r"`(-[-\w]+)`", options)}
    with pytest.raises(SystemExit):
        script.parse_args(["--help"])
    has = set(re.findall(r"(?<![\w-])(--?[a-z][\w-]*)", capsys.readouterr().out.split("\noptions:\n")[1]))
    assert told == has - {"-h", "--help"}
    given = vars(script.parse_args([]))
    defaults = TrainConfig().to_dict() | {name: value for name, value in given.items() if value is not None}
    for options, default in rows:
        value = defaults.get(re.search(r"`--([\w-]+)`", options)[1].replace("-", "_"))
        if "--dataset" not in options:  # which falls back
            assert value in (None, False) or default.strip("`") == shown(value), options


def test_the_readme_tells_every_networks_parameters():
    from neural_lib.models import ARCHS, build_model

    table = README.split("\n## Networks\n\n")[1].split("\n\n")[0].splitlines()[2:]
    told = {row.split("|")[1].strip(" `"): [cell.strip() for cell in row.split("|")[3:5]] for row in table}
    for arch in ARCHS:
        models = (build_model(arch, numChannels=c, classes=10, image_size=size) for c, size in ((1, 28), (3, 32)))
        assert told.pop(arch) == [f"{sum(p.numel() for p in model.parameters()):,}" for model in models]
    assert not told


def test_the_readme_tells_every_variant_of_a_recipe():
    rows = README.split("\n`best` has other values\n\n")[1].split("\n\n")[0].splitlines()[2:]
    told = [[cell.strip(" `").removeprefix("with `") for cell in row.strip("|").split("|")] for row in rows]

    def as_options(values: dict) -> str:
        return " ".join(f"{flag_of(name)} {shown(value)}" for name, value in values.items())

    assert told == [[as_options(each.where), as_options(each.values)] for each in RECIPES["best"].variants]
    assert not any(recipe.variants for name, recipe in RECIPES.items() if name != "best")


def test_the_readme_tells_what_each_recipe_is():
    table = README.split("\n| option | `classic`")[1].split("\n\n")[0]
    names = ["classic", *re.findall(r"`(\w+)`", table.splitlines()[0])]
    assert names == list(RECIPES)
    for row in table.splitlines()[2:]:
        option, *values = (cell.strip(" `") for cell in row.strip("|").split("|"))
        for name, told in zip(names, values, strict=True):
            value = getattr(RECIPES[name].config(), option.removeprefix("--").replace("-", "_"))
            assert told == shown(value), (name, option)
    differing = {name for recipe in RECIPES.values() for name in recipe.values}
    assert {row.split("|")[1].strip(" `-").replace("-", "_") for row in table.splitlines()[2:]} == differing
