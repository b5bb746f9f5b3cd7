"""Would the tests notice? Break one thing at a time in a copy of the package and see them fail.

    python tests/mutate.py                  every mutation of tests/mutations/*.txt
    python tests/mutate.py merging gates    those of some files

A line of tests/mutations/FAMILY.txt is  `methods/NAME.py :: OLD TEXT => NEW TEXT`; OLD TEXT stands exactly once in that file.
For each, tests/test_methods_FAMILY.py or tests/test_FAMILY.py has to fail. Survivors are named, and the exit status is 1.
The heavy libraries are imported once; every mutation is tried in a forked process. About six seconds each on one core.
"""
import os
import shutil
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "mbf_utils"


def mutations(family: str) -> list[tuple[str, str, str]]:
    """(file, old, new) of each line; a line that no longer fits its file raises ValueError."""
    found = []
    for number, line in enumerate((TESTS / "mutations" / f"{family}.txt").read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        file, colons, change = line.partition(" :: ")
        old, arrow, new = change.partition(" => ")
        if not (colons and arrow) or (PACKAGE / file).read_text(encoding="utf-8").count(old) != 1 or old == new:
            raise ValueError(f"expected `methods/NAME.py :: OLD => NEW` with OLD once in that file, found {line!r} ({family}.txt, line {number})")
        found.append((file, old, new))
    return found


def families() -> list[str]:
    return sorted(file.stem for file in (TESTS / "mutations").glob("*.txt"))


def watchers(family: str) -> list[Path]:
    return [file for file in (TESTS / f"test_methods_{family}.py", TESTS / f"test_{family}.py") if file.exists()]


def survives(family: str, file: str, old: str, new: str) -> bool:
    """Do the family's tests pass although OLD became NEW? In a forked process, silently."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    status = 1
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1), os.dup2(sink, 2)
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(PACKAGE, Path(folder) / "mbf_utils", ignore=shutil.ignore_patterns("__pycache__", "bases"))
            (Path(folder) / "mbf_utils" / "bases").symlink_to(PACKAGE / "bases")
            broken = Path(folder) / "mbf_utils" / file
            broken.write_text(broken.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
            sys.path.insert(0, folder)
            for name in [name for name in sys.modules if name.split(".")[0] in ("mbf_utils", "tiny", "toy")]:
                del sys.modules[name]                                # what the parent may have imported is the whole one
            import pytest
            status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *map(str, watchers(family))]))
    finally:
        os._exit(status)


def main(chosen: list[str]) -> int:
    import accelerate, peft, pytest, torch, transformers            # noqa: E401, F401  imported here, shared by all forks
    torch.set_num_threads(1)
    survivors, count = [], 0
    for family in chosen or families():
        if survives(family, "__init__.py", "", ""):                  # the tests have to pass on what is there
            for mutation in mutations(family):
                count += 1
                if survives(family, *mutation):
                    survivors.append(f"{family}: {mutation[0]} :: {mutation[1]} => {mutation[2]}")
                print(".", end="", flush=True)
        else:
            survivors.append(f"{family}: its tests fail on the package as it is")
    print(f"\n{count - len(survivors)} of {count} mutations are caught", *survivors, sep="\n  survived: ")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
