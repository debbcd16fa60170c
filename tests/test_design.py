"""The rules of the project's structure: which package may import which, and READMEs that are true."""

import ast
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path, PurePosixPath

import pytest
from conftest import ROOT

import predict
import train

LIBRARY = ROOT / "neural_lib"
# a package or a module of neural_lib may import those of its own level and of lower ones; not listed: level 1
LEVELS = {"system": 0, "data": 2, "records": 3, "checkpoint": 3, "evaluation": 4, "training": 5, "prediction": 5}
HEAVY = {"sklearn", "torchvision", "tensorboard", "onnx"}  # or optional; these may be imported where they are needed
WITHOUT_TORCH = (  # for --help and for refusals that come at once
    "train", "predict", "neural_lib.config", "neural_lib.records", "neural_lib.data.catalog",
    "neural_lib.data.download",
    "neural_lib.evaluation.annotate", "neural_lib.training.command", "neural_lib.training.runs",
    "neural_lib.prediction", "neural_lib.prediction.command", "neural_lib.prediction.window", "neural_lib.data.ink",
    "neural_lib.data.pictures", "neural_lib.system.cli", "neural_lib.system.environment",
    "neural_lib.system.errors", "neural_lib.system.files", "neural_lib.system.signals",
)  # fmt: skip


def name_of(path: Path) -> str:
    """The name by which a file of the library is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(LIBRARY.rglob("*.py"))}


def imports_of(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported anywhere in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def level_of(module: str) -> int:
    return LEVELS.get(f"{module}.".split(".")[1], 1)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    package = module.split(".")[1:2]
    for imported in imports_of(MODULES[module]):
        assert imported.split(".")[0] not in ("train", "predict", "tests"), f"{module} imports a script"
        if imported.startswith("neural_lib."):
            assert level_of(imported) <= level_of(module), f"{module} imports {imported}"
            both = {*package, imported.split(".")[1]}
            assert both != {"training", "prediction"}, f"{module} imports {imported}"


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: {each for each in imports_of(tree) if each in MODULES} for name, tree in MODULES.items()}
    del graph["neural_lib.prediction"]  # its one import is delayed until Recogniser is used
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_imports_are_at_the_top_of_a_module_but_for_heavy_packages():
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and module != "neural_lib.prediction":
                assert {each.split(".")[0] for each in imports_of(node)} <= HEAVY, f"{module}.{node.name}"


def test_what_comes_before_torch_does_not_load_it(run_python):
    code = f"import sys\nsys.modules['torch'] = None\nimport {', '.join(WITHOUT_TORCH)}"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_only_checkpoint_saves_and_loads_with_torch():
    for path in [*(Path(script.__file__) for script in (train, predict)), *LIBRARY.rglob("*.py")]:
        uses = re.search(r"torch\.(save|load)\(", path.read_text(encoding="utf-8"))
        assert bool(uses) is (path == LIBRARY / "checkpoint.py"), path


# --- the READMEs ---


def read_tree() -> set[str]:
    """The paths in README.md's annotated tree; folders end in a slash."""
    found, folders = set(), []
    for line in (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- tree -->")[1].splitlines():
        if line.strip():
            depth, name = (len(line) - len(line.lstrip())) // 2 - 2, line.split()[0]
            folders = [*folders[:depth], name]
            found.add("".join(folders))
    return found


def tracked_files() -> list[PurePosixPath]:
    """The scripts and modules that git tracks: what else lies there is the user's own. Skips a test without git."""
    if not shutil.which("git"):
        pytest.skip("there is no git here to ask which files are the project's")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--", ":(glob)*.py", ":(glob)neural_lib/**/*.py"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if done.returncode or not done.stdout:
        pytest.skip(f"git tracks no files here: {done.stderr.strip() or 'none of the project'}")
    found = [PurePosixPath(name) for name in done.stdout.split("\0") if name]
    return [path for path in found if path.stem != "__init__" and (ROOT / path).exists()]


def test_the_readmes_tree_is_the_projects():
    files = tracked_files()
    folders = {f"{path.parent}/" for path in files if path.parent.name}
    expected = {*map(str, files), *folders, "output/", "requirements.txt", "tests/"}
    missing, gone = expected - read_tree(), {path for path in read_tree() if not (ROOT / path).exists()}
    assert not missing, f"add a line to README.md's tree for {', '.join(sorted(missing))}"
    assert not gone, f"README.md's tree has lines for what isn't there: {', '.join(sorted(gone))}"


def commands_of(text: str) -> Iterator[tuple[str, list[str]]]:
    """The script and the arguments of each command of Python or torchrun in a README."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for command in [*lines, *re.findall(r"`((?:python|torchrun) [^`]+\.py[^`]*)`", text)]:
        if match := re.search(r"(?:python|torchrun)\b.*? (\S+\.py)\b(.*)", command):
            arguments = shlex.split(re.split(r"[|<>&;]", match[2])[0], comments=True)
            yield match[1], arguments


@pytest.mark.parametrize("path", [
    path.relative_to(ROOT) for folder in (ROOT, *(ROOT / name for name in ("neural_lib", "output", "tests")))
    for path in sorted(folder.glob("README.md" if folder == ROOT else "**/README.md"))
], ids=str)  # fmt: skip
def test_every_command_in_a_readme_is_one(path):
    for script, arguments in commands_of((ROOT / path).read_text(encoding="utf-8")):
        assert (ROOT / script).is_file(), script
        if script in ("train.py", "predict.py") and "..." not in arguments:
            try:
                {"train.py": train, "predict.py": predict}[script].parse_args(arguments)
            except SystemExit as end:
                assert end.code == 0 and "--help" in arguments
