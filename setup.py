"""Packaging of Poet. Requirements live in requirements/*.in, once."""

import ast
import pathlib
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).resolve().parent


def read_requirements(name):
    """Returns the requirement lines of requirements/<name>.in, without comments."""
    lines = (HERE / "requirements" / f"{name}.in").read_text().splitlines()
    return [line for line in (raw.partition("#")[0].strip() for raw in lines) if line]


def read_version():
    """Returns `__version__` of poet/__init__.py without importing it."""
    for node in ast.parse((HERE / "poet" / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__":
            return ast.literal_eval(node.value)
    raise ValueError("poet/__init__.py has no line `__version__ = ...`; setup.py needs one.")


class BuildWithGin(build_py):
    """Copies gin/ to poet/_gin/gin, so that an installed `poet` finds its runs.

    gin/ itself cannot be a package: with an __init__.py it would shadow the gin library.
    """

    def run(self):
        super().run()
        if self.editable_mode:
            return  # An editable install reads gin/ of the checkout.
        target = pathlib.Path(self.build_lib) / "poet" / "_gin" / "gin"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(HERE / "gin", target, ignore=shutil.ignore_patterns("__pycache__"))


# SeqIO's editdistance has no wheel for 3.13: there the extra `seqio` asks for it by name.
seqio = [f'{line}; python_version < "3.13"' for line in read_requirements("seqio")]

setup(
    name="poet",
    version=read_version(),
    description="Raw clips in, one language model over video, sound and text tokens, clips out.",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["poet", "poet.*", "tasks", "tasks.*"]),
    package_data={"poet": ["**/*.html", "**/*.css", "**/*.js", "**/*.json"]},
    cmdclass={"build_py": BuildWithGin},
    install_requires=[
        *(line for name in ("core", "media", "records") for line in read_requirements(name)),
        *seqio,
        *read_requirements("beam"),
    ],
    extras_require={
        "seqio": read_requirements("seqio"),
        "cuda": ["jax[cuda12]>=0.10.2,<0.12"],
        "tpu": ["jax[tpu]>=0.10.2,<0.12"],
        "torch": ["torch==2.13.0", "transformers==5.23.0"],
        "plan": [
            'libtpu==0.0.42.*; python_version < "3.12"',
            'libtpu==0.0.48.*; python_version >= "3.12"',
        ],
        "quant": read_requirements("quant"),
        "dev": [*read_requirements("dev"), *read_requirements("quant")],
    },
    entry_points={"console_scripts": ["poet = poet.main.cli:main"]},
)
