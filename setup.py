"""List the packages of the wheel: presets/ becomes gear.presets. The rest is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["gear", "gear.*"]), "gear.presets"],
    package_dir={"gear.presets": "presets"},
)
