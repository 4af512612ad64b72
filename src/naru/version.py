"""The version of the package, in one place (meson.build is compared with it by a test)."""

__version__ = "0.1.0"
