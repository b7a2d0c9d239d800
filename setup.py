"""List what the wheel holds: gear, presets/ as gear.presets, and dvc.yaml for `gear init`.

The rest is in pyproject.toml.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PIPELINE = "dvc.yaml"


class BuildWithPipeline(build_py):
    """Copy dvc.yaml into the package."""

    def run(self) -> None:
        """Build; an editable install reads the checkout's own."""
        super().run()
        if not self.editable_mode:
            self.copy_file(PIPELINE, str(Path(self.build_lib, "gear", PIPELINE)))

    def get_source_files(self) -> list[str]:
        """Return what a source distribution needs to build the wheel."""
        return [*super().get_source_files(), PIPELINE]


setup(
    packages=[*find_packages(include=["gear", "gear.*"]), "gear.presets"],
    package_dir={"gear.presets": "presets"},
    cmdclass={"build_py": BuildWithPipeline},
)
