"""Packages of the wheel: presets/ becomes gear.presets. Everything else stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["gear", "gear.*"]), "gear.presets"],
    package_dir={"gear.presets": "presets"},
)
