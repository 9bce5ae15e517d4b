"""`python -m spm_training` is `spm-train`; torchrun starts it this way."""

from spm_training.cli import main

if __name__ == "__main__":
    main()
