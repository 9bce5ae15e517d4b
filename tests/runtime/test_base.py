"""Every module beside the microscope is imported without the libraries of training, and without the optional ones."""

import subprocess
import sys

IMPORTS = """
import importlib, pkgutil, sys
import spm_kernels, spm_runtime

def missing(name):
    raise ImportError(name)

names = [module.name for root in (spm_kernels, spm_runtime)
         for module in pkgutil.walk_packages(root.__path__, f"{root.__name__}.", onerror=missing)]
for name in names:
    importlib.import_module(name)
extras = ("torch", "sklearn", "onnx", "pydantic", "bioimageio", "distributed", "rsciio", "access2thematrix", "NSFopen")
print(len(names), *(extra for extra in extras if extra in sys.modules))
"""


def test_every_module_imports_and_brings_no_extra():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, *extras = done.stdout.split()
    assert int(count) > 60
    assert extras == []
