"""The rules of the project's structure: which package may import which, and READMEs that are true."""

import ast
import importlib
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
SCRIPTS = {"train.py": train, "predict.py": predict}


# --- imports ---


def name_of(path: Path) -> str:
    """The name by which a file of the library is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in LIBRARY.rglob("*.py")}


def imports_of(tree: ast.AST) -> set[str]:
    """The modules that a syntax tree imports at its top or inside a function."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found.update(names or {node.module})
    return found


def package_of(module: str) -> str:
    """The package of the library that a module is in, or the module itself if it is beside the packages."""
    return f"{module}.".split(".")[1]


def test_imports_go_one_way_between_packages():
    graph = {package_of(module): set() for module in MODULES}
    for module, tree in MODULES.items():
        imported = imports_of(tree)
        assert not {"train", "predict"} & imported, f"{module} imports a script"
        package = package_of(module)
        graph[package] |= {package_of(each) for each in imported & MODULES.keys()} - {package}
    TopologicalSorter(graph).prepare()  # raises CycleError
    assert graph["system"] == set() and graph["data"] <= {"system", "config"}
    assert not {"training", "prediction"} & set().union(*graph.values()), "only the scripts import these"


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imports_of(tree) & MODULES.keys() for module, tree in MODULES.items()}
    del graph["neural_lib.prediction"]  # its one import is delayed until Recogniser is used
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_library_delays_only_imports_of_other_packages():
    """Those that most commands don't need; the scripts alone import the library inside functions."""
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name != "__getattr__":
                assert not imports_of(node) & MODULES.keys(), f"{module}.{node.name}"


def test_only_checkpoint_saves_and_loads_with_torch():
    # By its source: no test of an effect could know the file from which another module's torch.load would run code.
    for path in [*(ROOT / name for name in SCRIPTS), *LIBRARY.rglob("*.py")]:
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
        if script in SCRIPTS and "..." not in arguments:
            try:
                SCRIPTS[script].parse_args(arguments)
            except SystemExit as end:
                assert end.code == 0 and "--help" in arguments


def rows_from_the_tutorial() -> list[list[str]]:
    """The rows of the table "From the tutorial to here" in neural_lib/README.md, a list of cells each."""
    section = re.split(r"^## ", (LIBRARY / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    table = next(each for each in section if each.startswith("From the tutorial to here"))
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return rows[2:]  # without the heading and the line below it


def test_the_functions_of_the_tutorials_table_are_there():
    rows = rows_from_the_tutorial()
    assert len(rows) > 10
    for line, here, file, _ in rows:
        path = file.strip("`")
        dotted = path.removesuffix(".py").replace("/", ".")
        module = SCRIPTS.get(path) or importlib.import_module(f"neural_lib.{dotted}")
        names = re.findall(r"`([\w.]+)`", here)
        assert names, f"{line}: no function"
        for name in names:
            found = module
            for part in name.split("."):
                found = getattr(found, part, None)
            assert callable(found) and found.__module__ == module.__name__, f"{line}: {path} does not define {name}"
